"""Attention of 16-bit queries, keys and values, softmax in base 2, with 8-bit output.

Whole tiles of keys and their values, and the keys that are left: one by vector arithmetic (257 tokens are 256 and one),
several as a smaller tile. Softmax is taken tile by tile (Milakov & Gimelshein 2018, arXiv:1805.02867), as in
FlashAttention (Dao et al. 2022, arXiv:2205.14135). A single whole tile stays where it is for all queries of a program.
"""

import triton
import triton.language as tl
from torch import Tensor

from vitquant.recipes.vitquant_gpu.arithmetic import (
    after_previous,
    count_clipped,
    element,
    load_tile,
    multiplied,
    quantized,
    rounded,
    scaled,
)
from vitquant.recipes.vitquant_gpu.launch import Gpu, launch, matrix
from vitquant.recipes.vitquant_gpu.tiles import AttentionTile

SMALLEST_TILE = 16  # of what a tensor core multiplies


@triton.jit  # type: ignore[untyped-decorator]
def further_keys(query, key, value, peak, total, result, left, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Take a tile of keys and values into the softmax; of a MASKED one the first `left` count."""
    score = multiplied(query, key.T, tl.zeros((query.shape[0], key.shape[0]), dtype=tl.float32))
    if MASKED:
        score = tl.where((tl.arange(0, key.shape[0]) < left)[None, :], score, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(score, 1))
    shrink = tl.math.exp2(peak - new_peak)
    share = tl.math.exp2(score - new_peak[:, None])
    total = total * shrink + tl.sum(share, 1)
    return new_peak, total, multiplied(share.to(value.dtype), value, result * shrink[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def attention_kernel(  # type: ignore[no-untyped-def]
    query_tiles, key_tiles, last_tiles, qkv, multiplier, out, out_scale, clipped, rows,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    LAST: tl.constexpr, REPEAT: tl.constexpr, SCALED: tl.constexpr, COUNT: tl.constexpr, TMA: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """`query_tiles`, `key_tiles` and `last_tiles` are all of qkv (images × TOKENS, 3 × WIDTH)."""
    HEADS: tl.constexpr = WIDTH // HEAD
    WHOLE: tl.constexpr = TOKENS // KEYS
    LEFT: tl.constexpr = TOKENS % KEYS
    KIND: tl.constexpr = element(out.dtype)
    after_previous(EARLY)
    head = tl.program_id(0) % HEADS
    first = tl.program_id(0) // HEADS * TOKENS
    at_query = head * HEAD
    at_key = WIDTH + head * HEAD
    at_value = 2 * WIDTH + head * HEAD
    inner = tl.arange(0, HEAD)
    if WHOLE == 1:
        key = load_tile(key_tiles, first, at_key, rows, 3 * WIDTH, KEYS, HEAD, True, TMA)
        value = load_tile(key_tiles, first, at_value, rows, 3 * WIDTH, KEYS, HEAD, True, TMA)
    if LEFT == 1:
        at_last = qkv + (first + TOKENS - 1).to(tl.int64) * (3 * WIDTH) + head * HEAD + inner
        last_key = tl.load(at_last + WIDTH).to(tl.float32)
        last_value = tl.load(at_last + 2 * WIDTH).to(tl.float32)
    elif LEFT > 1:
        last_key = load_tile(last_tiles, first + WHOLE * KEYS, at_key, rows, 3 * WIDTH, LAST, HEAD, True, TMA)
        last_value = load_tile(last_tiles, first + WHOLE * KEYS, at_value, rows, 3 * WIDTH, LAST, HEAD, True, TMA)
    if quantized(KIND) and not SCALED:
        factor = tl.load(multiplier)
    for number in range(REPEAT):
        start = (tl.program_id(1) * REPEAT + number) * QUERIES
        query = load_tile(query_tiles, first + start, at_query, rows, 3 * WIDTH, QUERIES, HEAD, True, TMA)
        peak = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((QUERIES,), dtype=tl.float32)
        result = tl.zeros((QUERIES, HEAD), dtype=tl.float32)
        if LEFT == 1:
            peak = tl.sum(query.to(tl.float32) * last_key[None, :], 1)
            total = total + 1.0
            result = result + last_value[None, :]
        if WHOLE == 1:
            peak, total, result = further_keys(query, key, value, peak, total, result, KEYS, False)
        else:
            for tile in range(WHOLE):
                at = first + tile * KEYS
                one_key = load_tile(key_tiles, at, at_key, rows, 3 * WIDTH, KEYS, HEAD, True, TMA)
                one_value = load_tile(key_tiles, at, at_value, rows, 3 * WIDTH, KEYS, HEAD, True, TMA)
                peak, total, result = further_keys(query, one_key, one_value, peak, total, result, KEYS, False)
        if LEFT > 1:
            peak, total, result = further_keys(query, last_key, last_value, peak, total, result, LEFT, True)
        result = result * (1.0 / total)[:, None]
        at_row = start + tl.arange(0, QUERIES)
        inside = at_row < TOKENS
        if SCALED:
            values, scales = scaled(result, KIND)
            tl.store(out_scale + head * rows + first + at_row, scales, mask=inside)
        else:
            if quantized(KIND):
                result = result * factor
                if COUNT:
                    count_clipped(clipped, result, inside[:, None] & (inner < HEAD)[None, :], KIND)
            values = rounded(result, KIND)
        at = out + (first + at_row).to(tl.int64)[:, None] * WIDTH + head * HEAD + inner[None, :]
        tl.store(at, values, mask=inside[:, None])


def attention(
    qkv: Tensor,
    out: Tensor,
    tokens: int,
    head: int,
    tile: AttentionTile,
    gpu: Gpu,
    *,
    multiplier: Tensor | None = None,
    out_scale: Tensor | None = None,
    clipped: Tensor | None = None,
    early: bool = False,
) -> None:
    """Queries, keys and values of all images' tokens, 16 bits (M, 3 × width), to `out`, (M, width), 8 or 16 bits.

    Queries hold the factor log₂(e) / √head.

    Args:
        tokens: of an image.
        head: a head's size, 32, 64 or 128.
        multiplier: float32 (1,): 1 over the output's scale, where that is static.
        out_scale: float32 (heads, M), written; then the output has a scale for each token and head.
        clipped: int64 (), to which is added how many values the 8 bits could not hold.
    """
    rows, width = out.shape
    left = tokens % tile.keys
    last = max(triton.next_power_of_2(left), SMALLEST_TILE)
    launch(
        attention_kernel, (rows // tokens * (width // head), triton.cdiv(tokens, tile.queries * tile.repeat)),
        matrix(qkv, gpu, tile.queries, head), matrix(qkv, gpu, tile.keys, head), matrix(qkv, gpu, last, head),
        qkv, multiplier, out, out_scale, clipped, rows,
        TOKENS=tokens, WIDTH=width, HEAD=head, QUERIES=tile.queries, KEYS=tile.keys, LAST=last, REPEAT=tile.repeat,
        SCALED=out_scale is not None, COUNT=clipped is not None, TMA=gpu.tma, early=early,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
