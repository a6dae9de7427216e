"""Triton's norms, head and patches against their definition: on a GPU, or by the interpreter on the CPU."""

import pytest
import torch
import torch.nn.functional as F

from vitquant.recipes.vitquant_gpu import linear, norms, patches
from vitquant.recipes.vitquant_gpu.launch import Gpu
from vitquant.recipes.vitquant_gpu.tiles import Tile

from .cases import DEVICE, FLOATS, TOLERANCE, error, every_gpu, every_kind, floats, poisoned, random


@every_kind
@pytest.mark.parametrize(("rows", "width", "several"), [(5, 128, 1), (67, 192, 8), (33, 384, 4)])
def test_norm(rows: int, width: int, several: int, kind: torch.dtype) -> None:
    x, gain, shift = random(rows, width).to(floats(kind)) * 3 + 1, random(width) + 1, random(width)
    out, scale = poisoned(rows, width, dtype=kind), poisoned(rows, dtype=torch.float32)
    norms.norm(x, gain, shift, 1e-6, out, scale, rows=several, warps=2)
    expected = F.layer_norm(x.float(), (width,), gain, shift, 1e-6)
    found = out.float() if kind in FLOATS else out.float() * scale[:, None]
    assert error(found, expected) < TOLERANCE[kind]


@pytest.mark.parametrize(
    ("tokens", "prefix", "width", "classes", "parts"), [(17, 1, 128, 6, 8), (54, 5, 192, 70, 8), (17, 1, 64, 6, 32)]
)
def test_last_norm_and_head(tokens: int, prefix: int, width: int, classes: int, parts: int) -> None:
    images = 3
    x, gain, shift = random(images * tokens, width).half(), random(width) + 1, random(width)
    weight, bias = random(classes, 2 * width), random(classes)
    sums = poisoned(images, parts + 1, width, dtype=torch.float32)
    out = poisoned(images, classes + width, dtype=torch.float32)
    norms.last_norm(x, gain, shift, 1e-6, sums, tokens, prefix, early=False)
    norms.head(sums, weight, bias, out, tokens - prefix, early=False)
    final = F.layer_norm(x.float(), (width,), gain, shift, 1e-6).unflatten(0, (images, tokens))
    features = torch.cat([final[:, 0], final[:, prefix:].mean(1)], dim=1)
    expected = torch.cat([F.linear(features.double(), weight.double(), bias.double()), final[:, 0]], dim=1)
    assert error(out, expected) < 1e-5


@every_gpu
@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize(("side", "height", "prefix"), [(14, 70, 1), (16, 48, 5)])
def test_patches(side: int, height: int, prefix: int, kind: torch.dtype, gpu: Gpu) -> None:
    images, width, count = 3, 128, (height // side) ** 2
    pixels, kernel, bias = random(images, 3, height, height), random(width, 3, side, side) / side, random(width)
    positions = random(prefix + count, width).to(kind)
    depth = patches.padded_depth(side)
    rows = poisoned(images * count, depth, dtype=kind)
    tokens = poisoned(images * (prefix + count), width, dtype=kind)
    patches.copy_patches(pixels, rows, positions, tokens, side, prefix)
    weight = F.pad(kernel.flatten(1), (0, depth - 3 * side * side)).to(kind)
    layer = linear.Linear(weight, None, bias)
    layer(rows, tokens, linear.TOKENS, Tile(64, 64, 64, 4, 3), gpu, residual=positions, prefix=prefix)
    embedded = F.conv2d(pixels, kernel, bias, stride=side).flatten(2).transpose(1, 2)
    expected = torch.cat([torch.zeros(images, prefix, width, device=DEVICE), embedded], dim=1) + positions.float()
    assert error(tokens.unflatten(0, (images, -1)), expected) < TOLERANCE[kind]
