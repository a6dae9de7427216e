"""A linear layer over values of 8 or 16 bits in one kernel, with all that follows up to the next kernel's input.

(x · weightᵀ) × scales + bias, and then, by `follows`:
PLAIN       nothing: 16 bits, for attention
GELU        (GELU × multiplier + offset), rounded with the scale that the multiplier holds
GELU_SCALED the same, with a scale for each token and group of GROUP columns, found here
RESIDUAL    + the residual stream, 16 bits, in place
TOKENS      + the position, written to the patches' rows of the residual stream
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from vitquant.recipes.vitquant_gpu.arithmetic import (
    after_previous,
    count_clipped,
    element,
    gelu,
    load_tile,
    multiplied,
    quantized,
    rounded,
    scaled,
    store_tile,
)
from vitquant.recipes.vitquant_gpu.launch import Gpu, launch, matrix
from vitquant.recipes.vitquant_gpu.tiles import Tile

PLAIN, GELU, GELU_SCALED, RESIDUAL, TOKENS = (tl.constexpr(number) for number in range(5))
NONE, STATIC, BY_ROW, BY_GROUP = (tl.constexpr(number) for number in range(-1, 3))  # scales of the inputs
GROUP = tl.constexpr(128)  # columns of the hidden layer that share a scale at run time


@triton.jit  # type: ignore[untyped-decorator]
def load_columns(values, at_column, WIDTH: tl.constexpr, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """One value for each column of a tile, (1, columns)."""
    if EVEN:
        return tl.load(values + at_column)[None, :]
    else:
        return tl.load(values + at_column, mask=at_column < WIDTH, other=0.0)[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def follow(  # type: ignore[no-untyped-def]
    total, row, column, row_scale, scale, bias, multiplier, offset, residual, out, out_scale, clipped, rows,
    WIDTH: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, HALVES: tl.constexpr,
    SCALES: tl.constexpr, FOLLOWS: tl.constexpr, PATCHES: tl.constexpr, PREFIX: tl.constexpr, COUNT: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    at_row = row + tl.arange(0, TILE_ROWS)
    at_column = column + tl.arange(0, TILE_COLUMNS)
    inside = at_column < WIDTH
    EVEN: tl.constexpr = WIDTH % (TILE_COLUMNS * HALVES) == 0
    value = total.to(tl.float32)
    if SCALES == BY_ROW:
        value = value * tl.load(row_scale + at_row, mask=at_row < rows, other=0.0)[:, None]
    if SCALES != NONE:
        value = value * load_columns(scale, at_column, WIDTH, EVEN)
    value = value + load_columns(bias, at_column, WIDTH, EVEN)
    if FOLLOWS == RESIDUAL:
        before = load_tile(residual, row, column, rows, WIDTH, TILE_ROWS, TILE_COLUMNS, EVEN, TMA)
        value = value + before.to(tl.float32)
    if FOLLOWS == TOKENS:
        patch = at_row % PATCHES
        at_token = (at_row // PATCHES) * (PATCHES + PREFIX) + PREFIX + patch
        both = (at_row < rows)[:, None] & inside[None, :]
        at_position = residual + (PREFIX + patch)[:, None] * WIDTH + at_column[None, :]
        value = value + tl.load(at_position, mask=both, other=0.0).to(tl.float32)
        tl.store(
            out + at_token.to(tl.int64)[:, None] * WIDTH + at_column[None, :], value.to(out.dtype.element_ty), mask=both
        )
    else:
        KIND: tl.constexpr = element(out.dtype)
        if FOLLOWS == GELU or FOLLOWS == GELU_SCALED:
            value = gelu(value)
            if quantized(KIND):
                value = value * load_columns(multiplier, at_column, WIDTH, EVEN)
                value = value + load_columns(offset, at_column, WIDTH, EVEN)
            if COUNT:
                count_clipped(clipped, value, (at_row < rows)[:, None] & inside[None, :], KIND)
        if FOLLOWS == GELU_SCALED:
            values, scales = scaled(value, KIND)
            tl.static_assert(TILE_COLUMNS == GROUP)
            tl.store(out_scale + (column // GROUP) * rows + at_row, scales, mask=at_row < rows)
        else:
            values = rounded(value, KIND)
        store_tile(out, values, row, column, rows, WIDTH, TILE_ROWS, TILE_COLUMNS, EVEN, TMA)


@triton.jit  # type: ignore[untyped-decorator]
def one_tile(  # type: ignore[no-untyped-def]
    tile, x, weight, row_scale, scale, bias, multiplier, offset, residual, out, out_scale, clipped, rows,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    TILE_DEPTH: tl.constexpr, HALVES: tl.constexpr, SCALES: tl.constexpr, FOLLOWS: tl.constexpr,
    PATCHES: tl.constexpr, PREFIX: tl.constexpr, COUNT: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    SUM: tl.constexpr = tl.int32 if element(x.dtype) == tl.int8 else tl.float32
    EVEN: tl.constexpr = DEPTH % TILE_DEPTH == 0
    across: tl.constexpr = (WIDTH + TILE_COLUMNS - 1) // TILE_COLUMNS
    row = (tile // across) * TILE_ROWS
    column = (tile % across) * TILE_COLUMNS
    if SCALES == BY_GROUP:
        at_row = row + tl.arange(0, TILE_ROWS)
        total = tl.zeros((TILE_ROWS, TILE_COLUMNS), dtype=tl.float32)
        for depth in range(0, DEPTH, TILE_DEPTH):
            left = load_tile(x, row, depth, rows, DEPTH, TILE_ROWS, TILE_DEPTH, EVEN, TMA)
            right = load_tile(weight, column, depth, WIDTH, DEPTH, TILE_COLUMNS, TILE_DEPTH, EVEN, TMA)
            part = multiplied(left, right.T, tl.zeros((TILE_ROWS, TILE_COLUMNS), dtype=SUM)).to(tl.float32)
            at_scale = row_scale + (depth // TILE_DEPTH) * rows + at_row
            total += part * tl.load(at_scale, mask=at_row < rows, other=0.0)[:, None]
    else:
        total = tl.zeros((TILE_ROWS, TILE_COLUMNS), dtype=SUM)
        for depth in range(0, DEPTH, TILE_DEPTH):
            left = load_tile(x, row, depth, rows, DEPTH, TILE_ROWS, TILE_DEPTH, EVEN, TMA)
            right = load_tile(weight, column, depth, WIDTH, DEPTH, TILE_COLUMNS, TILE_DEPTH, EVEN, TMA)
            total = multiplied(left, right.T, total)
    if HALVES == 1:
        follow(total, row, column, row_scale, scale, bias, multiplier, offset, residual, out, out_scale, clipped,
               rows, WIDTH, TILE_ROWS, TILE_COLUMNS, HALVES, SCALES, FOLLOWS, PATCHES, PREFIX, COUNT, TMA)  # fmt: skip
    else:
        HALF: tl.constexpr = TILE_COLUMNS // 2
        one, two = tl.split(tl.permute(tl.reshape(total, (TILE_ROWS, 2, HALF)), (0, 2, 1)))
        follow(one, row, column, row_scale, scale, bias, multiplier, offset, residual, out, out_scale, clipped,
               rows, WIDTH, TILE_ROWS, HALF, HALVES, SCALES, FOLLOWS, PATCHES, PREFIX, COUNT, TMA)  # fmt: skip
        follow(two, row, column + HALF, row_scale, scale, bias, multiplier, offset, residual, out, out_scale, clipped,
               rows, WIDTH, TILE_ROWS, HALF, HALVES, SCALES, FOLLOWS, PATCHES, PREFIX, COUNT, TMA)  # fmt: skip


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def linear_kernel(  # type: ignore[no-untyped-def]
    x, weight, row_scale, scale, bias, multiplier, offset, residual, out, out_scale, clipped, rows,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    TILE_DEPTH: tl.constexpr, HALVES: tl.constexpr, PROGRAMS: tl.constexpr, SCALES: tl.constexpr,
    FOLLOWS: tl.constexpr, PATCHES: tl.constexpr, PREFIX: tl.constexpr, COUNT: tl.constexpr, TMA: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """PROGRAMS: how many share all tiles; 0 where each tile has its own."""
    after_previous(EARLY)
    if PROGRAMS == 0:
        one_tile(tl.program_id(0), x, weight, row_scale, scale, bias, multiplier, offset, residual, out, out_scale,
                 clipped, rows, WIDTH, DEPTH, TILE_ROWS, TILE_COLUMNS, TILE_DEPTH, HALVES, SCALES, FOLLOWS, PATCHES,
                 PREFIX, COUNT, TMA)  # fmt: skip
    else:
        tiles = tl.cdiv(rows, TILE_ROWS) * ((WIDTH + TILE_COLUMNS - 1) // TILE_COLUMNS)
        for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=True):
            one_tile(tile, x, weight, row_scale, scale, bias, multiplier, offset, residual, out, out_scale, clipped,
                     rows, WIDTH, DEPTH, TILE_ROWS, TILE_COLUMNS, TILE_DEPTH, HALVES, SCALES, FOLLOWS, PATCHES, PREFIX,
                     COUNT, TMA)  # fmt: skip


@dataclass(frozen=True)
class Linear:
    """A layer's weights on the GPU, N outputs of K inputs."""

    weight: Tensor
    """int8, float8_e4m3fn, float16 or bfloat16 (N, K)."""
    scale: Tensor | None
    """float32 (N,), that of a static input scale included; None with 16 bits."""
    bias: Tensor
    """float32 (N,)."""

    def __call__(
        self,
        x: Tensor,
        out: Tensor,
        follows: tl.constexpr,
        tile: Tile,
        gpu: Gpu,
        *,
        row_scale: Tensor | None = None,
        multiplier: Tensor | None = None,
        offset: Tensor | None = None,
        residual: Tensor | None = None,
        out_scale: Tensor | None = None,
        clipped: Tensor | None = None,
        prefix: int = 0,
        early: bool = False,
    ) -> None:
        """Rows `x` (M, K), of the weights' type, to `out` (M, N), or with TOKENS the tokens of all images, (·, N).

        Args:
            row_scale: of x, float32 (M,), or by group of columns, (K / tile.depth, M).
            multiplier: float32 (N,), of GELU's result, as is `offset`.
            residual: 16 bits (M, N), or with TOKENS the positions, (tokens, N).
            out_scale: float32 (N / GROUP, M), written with GELU_SCALED.
            clipped: int64 (), to which GELU adds how many values the 8 bits could not hold.
            prefix: with TOKENS, tokens before an image's patches.
        """
        rows, depth = x.shape
        width = len(self.weight)
        scales = -1 if self.scale is None else 0 if row_scale is None else row_scale.ndim  # NONE … BY_GROUP
        columns = tile.columns // tile.halves
        tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns)
        programs = tile.resident * gpu.processors
        patches = 1
        if follows.value == TOKENS.value and residual is not None:
            patches = len(residual) - prefix
        else:
            residual = None if residual is None else matrix(residual, gpu, tile.rows, columns)
            out = matrix(out, gpu, tile.rows, columns)
        launch(
            linear_kernel, (min(tiles, programs) if programs else tiles,),
            matrix(x, gpu, tile.rows, tile.depth), matrix(self.weight, gpu, tile.columns, tile.depth),
            row_scale, self.scale, self.bias, multiplier, offset, residual, out, out_scale, clipped, rows,
            WIDTH=width, DEPTH=depth, TILE_ROWS=tile.rows, TILE_COLUMNS=tile.columns, TILE_DEPTH=tile.depth,
            HALVES=tile.halves, PROGRAMS=programs, SCALES=scales, FOLLOWS=follows.value, PATCHES=patches, PREFIX=prefix,
            COUNT=clipped is not None, TMA=gpu.tma, early=early, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
