"""Triton's attention against its definition, on odd sizes: on a GPU, or by the interpreter on the CPU."""

import math

import pytest
import torch

from vitquant.recipes.vitquant_gpu import attention
from vitquant.recipes.vitquant_gpu.launch import Gpu
from vitquant.recipes.vitquant_gpu.tiles import AttentionTile

from .cases import (
    CUDA,
    DEVICE,
    FLOATS,
    TOLERANCE,
    TOP,
    error,
    every_pair,
    floats,
    poisoned,
    quantize,
    random,
)

# tokens, tile: fewer than a tile of keys; a tile and one; a tile and some; several tiles with and without a rest
ATTENTIONS = [
    (10, AttentionTile(16, 16, 1, 4, 2)),
    (33, AttentionTile(16, 32, 3, 4, 2)),
    (37, AttentionTile(16, 32, 2, 4, 2)),
    (49, AttentionTile(32, 16, 1, 4, 2)),
    (48, AttentionTile(16, 16, 2, 4, 2)),
]
if CUDA:  # as the models have them: too long for the interpreter
    ATTENTIONS += [
        (197, AttentionTile(64, 64, 1, 4, 3)),
        (197, AttentionTile(64, 256, 4, 4, 2)),
        (257, AttentionTile(64, 128, 1, 4, 2)),
        (257, AttentionTile(64, 256, 5, 4, 2)),
        (577, AttentionTile(64, 64, 1, 4, 3)),
        (1370, AttentionTile(128, 64, 1, 4, 3)),
    ]


@every_pair
@pytest.mark.parametrize("head", [32, 64] if CUDA else [32])
@pytest.mark.parametrize(("tokens", "tile"), ATTENTIONS, ids=str)
def test_attention(tokens: int, tile: AttentionTile, head: int, kind: torch.dtype, gpu: Gpu) -> None:
    images, heads = 2, 2
    width, rows = head * heads, images * tokens
    qkv = random(rows, 3 * width).to(floats(kind))
    query, key, value = qkv.float().reshape(images, tokens, 3, heads, head).permute(2, 0, 3, 1, 4)
    share = torch.softmax(query @ key.transpose(2, 3) * math.log(2), dim=-1)
    expected = (share @ value).transpose(1, 2).reshape(rows, width)
    out, factor = poisoned(rows, width, dtype=kind), torch.tensor([TOP[kind] / 2], device=DEVICE)
    attention.attention(qkv, out, tokens, head, tile, gpu, multiplier=factor)
    final = expected if kind in FLOATS else quantize(expected * factor, kind)
    assert error(out, final) < TOLERANCE[kind]
    if kind not in FLOATS:
        counter = torch.zeros((), dtype=torch.int64, device=DEVICE)
        attention.attention(qkv, out, tokens, head, tile, gpu, multiplier=factor, clipped=counter)
        beyond = int(((expected * factor).abs() > TOP[kind] + 0.5).sum())
        assert abs(int(counter) - beyond) <= 0.1 * beyond + 3
        out, scale = poisoned(rows, width, dtype=kind), poisoned(heads, rows, dtype=torch.float32)
        attention.attention(qkv, out, tokens, head, tile, gpu, out_scale=scale)
        assert error(out.float() * scale.T.repeat_interleave(head, 1), expected) < TOLERANCE[kind]
