"""Triton's linear layers against their definition, on odd sizes: on a GPU, or by the interpreter on the CPU."""

import pytest
import torch
import torch.nn.functional as F

from vitquant.recipes.vitquant_gpu import linear
from vitquant.recipes.vitquant_gpu.launch import Gpu
from vitquant.recipes.vitquant_gpu.tiles import Tile

from .cases import (
    DEVICE,
    FLOATS,
    PAIRS,
    TOLERANCE,
    TOP,
    error,
    every_pair,
    floats,
    poisoned,
    quantize,
    random,
    uniform,
)

SHAPES = [(5, 128, 64), (130, 128, 192), (65, 320, 128)]  # rows, depth, width
TILES = [Tile(64, 64, 64, 4, 3), Tile(128, 128, 64, 4, 3, 2, 2), Tile(64, 32, 128, 4, 3)]


@every_pair
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("follows", ["plain", "gelu", "residual"])
def test_linear(shape: tuple[int, int, int], kind: torch.dtype, gpu: Gpu, follows: str) -> None:
    rows, depth, width = shape
    tile = TILES[SHAPES.index(shape)]
    x, weight, bias = random(rows, depth, kind=kind), random(width, depth, kind=kind), random(width)
    row_scale = scale = None
    product = x.float() @ weight.float().T
    if kind not in FLOATS:
        scale = uniform(width)
        scale /= TOP[kind] ** 2 / 9 * depth**0.5
        if follows != "residual":
            row_scale = uniform(rows)
            product = product * row_scale[:, None]
        product = product * scale
    expected = product + bias
    layer, given = linear.Linear(weight, scale, bias), {}
    if follows == "plain":
        out = poisoned(rows, width, dtype=floats(kind))
        layer(x, out, linear.PLAIN, tile, gpu, row_scale=row_scale)
    elif follows == "gelu":
        out = poisoned(rows, width, dtype=kind)
        multiplier, offset = uniform(width) * TOP[kind] / 2, random(width)
        clipped = torch.zeros((), dtype=torch.int64, device=DEVICE)
        expected = F.gelu(expected)
        if kind not in FLOATS:
            expected = expected * multiplier + offset
            given = {"clipped": clipped}
        layer(x, out, linear.GELU, tile, gpu, row_scale=row_scale, multiplier=multiplier, offset=offset, **given)
        if given:
            beyond = int((expected.abs() > TOP[kind] + 0.5).sum())
            assert beyond > 0
            assert abs(int(clipped) - beyond) <= 0.1 * beyond + 3  # GELU's approximation moves some over the edge
        expected = quantize(expected, kind)
    else:
        out = random(rows, width).to(floats(kind))
        expected = expected + out.float()
        layer(x, out, linear.RESIDUAL, tile, gpu, residual=out)
    assert error(out, expected) < TOLERANCE[kind]


@pytest.mark.parametrize(("kind", "gpu"), [pair for pair in PAIRS if pair[0] not in FLOATS], ids=str)
@pytest.mark.parametrize("shape", [(5, 128, 128), (70, 192, 256)], ids=str)
def test_linear_with_scales_for_groups(shape: tuple[int, int, int], kind: torch.dtype, gpu: Gpu) -> None:
    """Those of the inputs for each row and 64 columns, those of the outputs for each row and 128."""
    rows, depth, width = shape
    x, weight, bias = random(rows, depth, kind=kind), random(width, depth, kind=kind), random(width)
    group_scale = uniform(depth // 64, rows)
    scale = uniform(width) / (TOP[kind] ** 2 / 9 * depth**0.5)
    expected = (x.float() * group_scale.T.repeat_interleave(64, 1)) @ weight.float().T * scale + bias
    layer = linear.Linear(weight, scale, bias)
    out = random(rows, width).to(floats(kind))
    before = out.float()
    layer(x, out, linear.RESIDUAL, Tile(64, 32, 64, 4, 3), gpu, row_scale=group_scale, residual=out)
    assert error(out, expected + before) < TOLERANCE[kind]
    out, out_scale = poisoned(rows, width, dtype=kind), poisoned(width // 128, rows, dtype=torch.float32)
    one, zero = torch.ones(width, device=DEVICE), torch.zeros(width, device=DEVICE)
    layer(
        x, out, linear.GELU_SCALED, Tile(64, 128, 64, 4, 3), gpu, row_scale=group_scale, multiplier=one, offset=zero,
        out_scale=out_scale,
    )  # fmt: skip
    found = out.float() * out_scale.T.repeat_interleave(128, 1)
    assert error(found, F.gelu(expected)) < TOLERANCE[kind]
    assert out.float().abs().unflatten(1, (-1, 128)).amax(2).eq(TOP[kind]).all()
