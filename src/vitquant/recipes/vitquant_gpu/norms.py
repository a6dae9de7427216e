"""LayerNorm with quantized output, and what follows the last block: its norm, the mean patch, and the head."""

import triton
import triton.language as tl
from torch import Tensor

from vitquant.recipes.vitquant_gpu.arithmetic import after_previous, element, quantized, rounded, scaled
from vitquant.recipes.vitquant_gpu.launch import launch

FEW = tl.constexpr(8)  # rows or classes at a time
CLASSES = tl.constexpr(64)  # of a program of the head


@triton.jit  # type: ignore[untyped-decorator]
def normalised(value, gain, shift, inside, WIDTH: tl.constexpr, EPSILON: tl.constexpr):  # type: ignore[no-untyped-def]
    """LayerNorm of rows of float32, zeros where not `inside`."""
    mean = tl.sum(value, 1) / WIDTH
    centred = tl.where(inside[None, :], value - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / WIDTH + EPSILON)
    return centred * inverse[:, None] * gain[None, :] + shift[None, :]


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def norm_kernel(  # type: ignore[no-untyped-def]
    x, gain, shift, out, out_scale, rows,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, EPSILON: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    KIND: tl.constexpr = element(out.dtype)
    at_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    gains = tl.load(gain + column, mask=inside, other=0.0)
    shifts = tl.load(shift + column, mask=inside, other=0.0)
    after_previous(EARLY)
    mask = (at_row < rows)[:, None] & inside[None, :]
    at = at_row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    result = normalised(value, gains, shifts, inside, WIDTH, EPSILON)
    if quantized(KIND):
        values, scales = scaled(result, KIND)
        tl.store(out + at, values, mask=mask)
        tl.store(out_scale + at_row, scales, mask=at_row < rows)
    else:
        tl.store(out + at, rounded(result, KIND), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def last_norm_kernel(  # type: ignore[no-untyped-def]
    x, gain, shift, sums,
    TOKENS: tl.constexpr, PREFIX: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, PARTS: tl.constexpr,
    EPSILON: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The norm; then part 0 … PARTS - 1 of `sums` is a sum of patches, part PARTS the class token."""
    EACH: tl.constexpr = (TOKENS - PREFIX + PARTS - 1) // PARTS
    image = tl.program_id(0)
    part = tl.program_id(1)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    gains = tl.load(gain + column, mask=inside, other=0.0)
    shifts = tl.load(shift + column, mask=inside, other=0.0)
    after_previous(EARLY)
    start = tl.where(part == PARTS, 0, PREFIX + part * EACH)
    end = tl.where(part == PARTS, 1, tl.minimum(PREFIX + (part + 1) * EACH, TOKENS))
    total = tl.zeros((PADDED,), dtype=tl.float32)
    for token in range(start, end, FEW):
        at_row = token + tl.arange(0, FEW)
        mask = (at_row < end)[:, None] & inside[None, :]
        at = (image * TOKENS + at_row).to(tl.int64)[:, None] * WIDTH + column[None, :]
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        result = normalised(value, gains, shifts, inside, WIDTH, EPSILON)
        total += tl.sum(tl.where(mask, result, 0.0), 0)
    tl.store(sums + (image * (PARTS + 1) + part) * WIDTH + column, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def head_kernel(  # type: ignore[no-untyped-def]
    sums, weight, bias, out,
    COUNT: tl.constexpr, PATCHES: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, PARTS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Logits of COUNT classes from class token and mean patch; beside them goes the class token."""
    after_previous(EARLY)
    image = tl.program_id(0)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    at_sums = sums + image * (PARTS + 1) * WIDTH + column
    class_token = tl.load(at_sums + PARTS * WIDTH, mask=inside, other=0.0)
    mean = tl.zeros((PADDED,), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        mean += tl.load(at_sums + part * WIDTH, mask=inside, other=0.0)
    mean = mean / PATCHES
    at_out = out + image.to(tl.int64) * (COUNT + WIDTH)
    if tl.program_id(1) == 0:
        tl.store(at_out + COUNT + column, class_token, mask=inside)
    begin = tl.program_id(1) * CLASSES
    for one in range(begin, tl.minimum(begin + CLASSES, COUNT), FEW):
        at_class = one + tl.arange(0, FEW)
        mask = (at_class < COUNT)[:, None] & inside[None, :]
        at = weight + at_class[:, None] * (2 * WIDTH) + column[None, :]
        product = tl.load(at, mask=mask, other=0.0) * class_token[None, :]
        product += tl.load(at + WIDTH, mask=mask, other=0.0) * mean[None, :]
        logits = tl.sum(product, 1) + tl.load(bias + at_class, mask=at_class < COUNT, other=0.0)
        tl.store(at_out + at_class, logits, mask=at_class < COUNT)


def norm(
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    epsilon: float,
    out: Tensor,
    out_scale: Tensor | None,
    *,
    rows: int,
    warps: int,
    early: bool = False,
) -> None:
    """LayerNorm of 16 bits (M, width) to 8 with a scale for each row, float32 (M,), or to 16.

    Args:
        gain: float32 (width,), as is `shift`.
        rows: of a program.
        warps: likewise.
    """
    count, width = x.shape
    launch(
        norm_kernel, (triton.cdiv(count, rows),), x, gain, shift, out, out_scale, count,
        WIDTH=width, PADDED=triton.next_power_of_2(width), ROWS=rows, EPSILON=epsilon, early=early, num_warps=warps,
    )  # fmt: skip


def last_norm(
    x: Tensor, gain: Tensor, shift: Tensor, epsilon: float, sums: Tensor, tokens: int, prefix: int, *, early: bool
) -> None:
    """LayerNorm of the tokens, 16 bits (images × tokens, width), to `sums`, float32 (images, parts + 1, width).

    There are an image's patches, in so many parts, and its class token.
    """
    width, parts = x.shape[1], sums.shape[1] - 1
    launch(
        last_norm_kernel, (len(sums), parts + 1), x, gain, shift, sums,
        TOKENS=tokens, PREFIX=prefix, WIDTH=width, PADDED=triton.next_power_of_2(width), PARTS=parts, EPSILON=epsilon,
        early=early,
    )  # fmt: skip


def head(sums: Tensor, weight: Tensor, bias: Tensor, out: Tensor, patches: int, *, early: bool) -> None:
    """What `last_norm` wrote to logits and class token, float32 (images, classes + width).

    Args:
        weight: float32 (classes, 2 × width); `bias`: float32 (classes,).
    """
    width = sums.shape[2]
    launch(
        head_kernel, (len(sums), triton.cdiv(len(weight), CLASSES.value)), sums, weight, bias, out,
        COUNT=len(weight), PATCHES=patches, WIDTH=width, PADDED=triton.next_power_of_2(width), PARTS=sums.shape[1] - 1,
        early=early, num_warps=8,
    )  # fmt: skip
