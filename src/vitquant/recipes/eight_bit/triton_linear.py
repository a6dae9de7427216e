"""A linear layer over INT8 values on a GPU, in one Triton kernel: the product, both scales and the bias.

PyTorch's `_int_mm` writes its sums as INT32, twice the bytes of the FP16 result, and another kernel reads them again.
Tiles are fixed, so that nothing is tuned: 128 × 128 results a block, or 64 × 64 where the rows are few.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

MANY_ROWS = 4096
GROUP = 8  # blocks of rows that share columns while these are in the L2 cache


@triton.jit  # type: ignore[untyped-decorator]
def int8_linear_kernel(  # type: ignore[no-untyped-def]
    x, weight, x_scale, weight_scale, bias, out, rows, width, depth,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr, tile_depth: tl.constexpr, group_rows: tl.constexpr,
):  # fmt: skip
    block, row_blocks, column_blocks = tl.program_id(0), tl.cdiv(rows, tile_rows), tl.cdiv(width, tile_columns)
    group = block // (group_rows * column_blocks)
    height = min(row_blocks - group * group_rows, group_rows)
    row_block = group * group_rows + (block % (group_rows * column_blocks)) % height
    column_block = (block % (group_rows * column_blocks)) // height
    row = row_block * tile_rows + tl.arange(0, tile_rows)
    column = column_block * tile_columns + tl.arange(0, tile_columns)
    step = tl.arange(0, tile_depth)
    x_at = x + (row % rows)[:, None] * depth + step[None, :]
    weight_at = weight + (column % width)[None, :] * depth + step[:, None]
    total = tl.zeros((tile_rows, tile_columns), dtype=tl.int32)
    for start in range(0, depth, tile_depth):
        inside = step < depth - start
        left = tl.load(x_at + start, mask=inside[None, :], other=0)
        right = tl.load(weight_at + start, mask=inside[:, None], other=0)
        total = tl.dot(left, right, acc=total, out_dtype=tl.int32)
    scale = tl.load(x_scale + row % rows)[:, None] * tl.load(weight_scale + column % width)[None, :]
    result = total.to(tl.float32) * scale + tl.load(bias + column % width)[None, :]
    place = out + row[:, None] * width + column[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (column < width)[None, :])


@triton_op("vitquant::int8_linear", mutates_args={})
def int8_linear(
    x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """(x · weightᵀ) × both scales + bias.

    Args:
        x: int8 (rows, in), contiguous.
        weight: int8 (out, in), contiguous.
        x_scale: float32 (rows,) or (rows, 1).
        weight_scale: float32 (out,).
        bias: float32 (out,).
        dtype: of the result, (rows, out).
    """
    rows, depth = x.shape
    width = len(weight)
    tile, warps = (128, 8) if rows >= MANY_ROWS else (64, 4)
    out = torch.empty(rows, width, dtype=dtype, device=x.device)
    blocks = triton.cdiv(rows, tile) * triton.cdiv(width, tile)
    wrap_triton(int8_linear_kernel)[(blocks,)](
        x, weight, x_scale, weight_scale, bias, out, rows, width, depth,
        tile_rows=tile, tile_columns=tile, tile_depth=64, group_rows=GROUP, num_warps=warps, num_stages=3,
    )  # fmt: skip
    return out
