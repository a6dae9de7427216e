"""What the kernels share: tiles, rounding to 8 bits, GELU, and how one kernel follows another.

A kernel is the same source for every GPU. `TMA`, a constant, says how tiles travel: by Hopper's tensor memory
accelerator from a descriptor, or, where there is none, by pointers. Triton's interpreter has no inline assembly, and
takes the definitions.
"""

from typing import Any

import triton
import triton.language as tl
from triton import knobs

ASSEMBLY = tl.constexpr(not knobs.runtime.interpret)


@triton.jit  # type: ignore[untyped-decorator]
def load_tile(  # type: ignore[no-untyped-def]
    source, row, column, rows,
    WIDTH: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, EVEN: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    """The tile at (row, column) of a matrix (rows, WIDTH); zeros beyond its edges. EVEN: none reaches beyond WIDTH."""
    if TMA:
        return source.load([row, column])
    else:
        at_row = row + tl.arange(0, TILE_ROWS)
        at_column = column + tl.arange(0, TILE_COLUMNS)
        at = source + at_row.to(tl.int64)[:, None] * WIDTH + at_column[None, :]
        if EVEN:
            return tl.load(at, mask=(at_row < rows)[:, None], other=0.0)
        else:
            return tl.load(at, mask=(at_row < rows)[:, None] & (at_column < WIDTH)[None, :], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def store_tile(  # type: ignore[no-untyped-def]
    target, values, row, column, rows,
    WIDTH: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, EVEN: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    """Write a tile to (row, column) of a matrix (rows, WIDTH), but for what lies beyond its edges. EVEN: as above."""
    if TMA:
        target.store([row, column], values)
    else:
        at_row = row + tl.arange(0, TILE_ROWS)
        at_column = column + tl.arange(0, TILE_COLUMNS)
        at = target + at_row.to(tl.int64)[:, None] * WIDTH + at_column[None, :]
        if EVEN:
            tl.store(at, values, mask=(at_row < rows)[:, None])
        else:
            tl.store(at, values, mask=(at_row < rows)[:, None] & (at_column < WIDTH)[None, :])


@triton.constexpr_function  # type: ignore[untyped-decorator]
def element(kind: Any) -> Any:
    """The type of what a descriptor (its dtype) or a pointer (likewise) leads to."""
    return kind.element_ty if kind.is_ptr() else kind


@triton.constexpr_function  # type: ignore[untyped-decorator]
def quantized(kind: Any) -> bool:
    """Whether a type has 8 bits, and values with a scale; else it has 16, and its values are what they are."""
    return bool(kind == tl.int8 or kind == tl.float8e4nv)


@triton.constexpr_function  # type: ignore[untyped-decorator]
def largest(kind: Any) -> float:
    """The largest magnitude that a scale maps to."""
    return 127.0 if kind == tl.int8 else 448.0


@triton.jit
def multiplied(left, right, total):  # type: ignore[no-untyped-def]
    """total + left · right."""
    if ASSEMBLY or left.dtype != tl.bfloat16:
        return tl.dot(left, right, total, out_dtype=total.dtype)
    else:  # the interpreter multiplies BF16's bits as integers
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total)


@triton.jit  # type: ignore[untyped-decorator]
def rounded(values, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float32 to the nearest value of type KIND, ties to even; what is beyond its range becomes its end."""
    if KIND == tl.int8:
        if ASSEMBLY:
            return tl.inline_asm_elementwise(
                """{ .reg .s32 a, b, c, d; .reg .b32 high;
                cvt.rni.s32.f32 a, $1; cvt.rni.s32.f32 b, $2; cvt.rni.s32.f32 c, $3; cvt.rni.s32.f32 d, $4;
                cvt.pack.sat.s8.s32.b32 high, d, c, 0;
                cvt.pack.sat.s8.s32.b32 $0, b, a, high; }""",
                "=r,f,f,f,f", [values], dtype=tl.int8, is_pure=True, pack=4,
            )  # fmt: skip
        else:
            inside = tl.minimum(tl.maximum(values, -128.0), 127.0)
            return (inside + 12582912.0 - 12582912.0).to(
                tl.int8
            )  # 1.5 × 2²³, beyond which float32 has whole numbers only
    elif KIND == tl.float8e4nv:
        return tl.minimum(tl.maximum(values, -448.0), 448.0).to(tl.float8e4nv)
    else:
        return values.to(KIND)


@triton.jit  # type: ignore[untyped-decorator]
def scaled(values, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float32 (rows, columns) to 8 bits with a scale for each row: the values, and the scales, float32 (rows,)."""
    top: tl.constexpr = largest(KIND)
    peak = tl.maximum(tl.max(tl.abs(values), 1), 1e-12)
    return rounded(values * (top / peak)[:, None], KIND), peak / top


@triton.jit  # type: ignore[untyped-decorator]
def count_clipped(counter, values, inside, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add to `counter` how many of the values, where `inside` is true, are beyond the range of KIND."""
    limit: tl.constexpr = largest(KIND) + 0.5
    tl.atomic_add(counter, tl.sum(tl.where(inside & (tl.abs(values) > limit), 1, 0)).to(tl.int64))


@triton.jit
def gelu(x):  # type: ignore[no-untyped-def]
    """GELU by its tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415), within 0.0005 of the exact one."""
    inner = x * (0.7978845608028654 + 0.035677408136300125 * x * x)
    if ASSEMBLY:
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [inner], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        tanh = 1 - 2 / (tl.exp(2 * inner) + 1)
    half = 0.5 * x
    return half * tanh + half


@triton.jit  # type: ignore[untyped-decorator]
def after_previous(EARLY: tl.constexpr):  # type: ignore[no-untyped-def]
    """Wait until the kernel before has written all, and let the next one start, which will wait here in turn.

    EARLY: programmatic dependent launch, of Hopper and later.
    """
    if EARLY and ASSEMBLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
