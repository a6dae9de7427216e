"""Images to rows of patches, which a linear layer embeds: a copy and a product are faster than the convolution."""

import triton
import triton.language as tl
from torch import Tensor

from vitquant.recipes.vitquant_gpu.arithmetic import after_previous
from vitquant.recipes.vitquant_gpu.launch import launch

CHUNK = 128
"""Values of a patch that a program copies; a row of patches is padded to a multiple of it."""


@triton.jit  # type: ignore[untyped-decorator]
def patches_kernel(  # type: ignore[no-untyped-def]
    images, patches, positions, tokens,
    HEIGHT: tl.constexpr, ACROSS: tl.constexpr, SIDE: tl.constexpr, PADDED_ACROSS: tl.constexpr, DEPTH: tl.constexpr,
    CHUNK: tl.constexpr, PREFIX: tl.constexpr, PADDED_PREFIX: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One row of patches of one image; the first of an image also writes its class token and registers."""
    after_previous(EARLY)
    image = tl.program_id(0) // ACROSS
    down = tl.program_id(0) % ACROSS
    across = tl.arange(0, PADDED_ACROSS)
    value = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    channel = value // (SIDE * SIDE)
    y = value % (SIDE * SIDE) // SIDE + down * SIDE
    x = value % SIDE
    within = channel * (HEIGHT * HEIGHT) + y * HEIGHT + x
    at = images + image.to(tl.int64) * (3 * HEIGHT * HEIGHT) + within[None, :] + (across * SIDE)[:, None]
    mask = (across < ACROSS)[:, None]
    pixels = tl.load(at, mask=mask & (value < 3 * SIDE * SIDE)[None, :], other=0.0)
    row = (image * ACROSS + down).to(tl.int64) * ACROSS + across
    tl.store(patches + row[:, None] * DEPTH + value[None, :], pixels.to(patches.dtype.element_ty), mask=mask)
    if down == 0 and tl.program_id(1) == 0:
        token = tl.arange(0, PADDED_PREFIX)
        column = tl.arange(0, PADDED)
        inside = (token < PREFIX)[:, None] & (column < WIDTH)[None, :]
        own = tl.load(positions + token[:, None] * WIDTH + column[None, :], mask=inside)
        first = image.to(tl.int64) * (ACROSS * ACROSS + PREFIX)
        tl.store(tokens + (first + token)[:, None] * WIDTH + column[None, :], own, mask=inside)


def padded_depth(side: int) -> int:
    """Columns of a row of patches of side × side pixels."""
    return -(-3 * side * side // CHUNK) * CHUNK


def copy_patches(
    images: Tensor, patches: Tensor, positions: Tensor, tokens: Tensor, side: int, prefix: int, *, early: bool = False
) -> None:
    """Images, float32 (N, 3, H, H), to `patches`, 16 bits (N × patches, padded_depth); the first tokens to `tokens`.

    Args:
        positions: what each token of an image starts with, 16 bits (tokens, width); the first `prefix` are no patches'.
        tokens: 16 bits (N × tokens, width).
        side: of a patch, pixels.
    """
    count, _, height, _ = images.shape
    across, width = height // side, positions.shape[1]
    launch(
        patches_kernel, (count * across, patches.shape[1] // CHUNK), images, patches, positions, tokens,
        HEIGHT=height, ACROSS=across, SIDE=side, PADDED_ACROSS=triton.next_power_of_2(across), DEPTH=patches.shape[1],
        CHUNK=CHUNK, PREFIX=prefix, PADDED_PREFIX=triton.next_power_of_2(prefix), WIDTH=width,
        PADDED=triton.next_power_of_2(width), early=early,
    )  # fmt: skip
