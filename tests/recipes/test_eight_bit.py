from typing import Literal

import pytest
import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from vitquant.predictor import read_weights
from vitquant.quantization.layers import DynamicLinear
from vitquant.recipes.eight_bit import quantize

from .examples import Built


@pytest.mark.parametrize(
    ("name", "weights", "floats"),
    [("eight-bit-int8", torch.int8, torch.float16), ("eight-bit-fp8", torch.float8_e4m3fn, torch.bfloat16)],
)
def test_the_types_of_what_is_stored(built: Built, name: str, weights: torch.dtype, floats: torch.dtype) -> None:
    tensors = read_weights(built(name))
    assert tensors["backbone.blocks.0.mlp.fc1.weight"].dtype == weights
    assert tensors["backbone.blocks.0.mlp.fc1.scale"].dtype == torch.float32
    assert tensors["backbone.cls_token"].dtype == floats
    assert tensors["head.weight"].dtype == torch.float32


def test_int8_layers_compute_what_torchaos_do() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(64, 48).bfloat16().requires_grad_(False), torch.randn(5, 30, 64).bfloat16()
    own = DynamicLinear(*quantize(layer.weight.float(), "int8"), layer.bias.float())
    expected = layer(inputs)
    quantize_(layer, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    theirs = layer(inputs)
    error = (theirs - expected).float().square().mean().sqrt()
    assert (own(inputs) - theirs).float().square().mean().sqrt() < error  # they differ by 127 against 127.5 levels
    assert (own(inputs) - expected).float().square().mean().sqrt() < 1.2 * error


@pytest.mark.parametrize("weights", ["int8", "float8"])
def test_weights_are_rounded_by_the_largest_magnitude_of_each_output(weights: Literal["int8", "float8"]) -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    values, scale = quantize(weight, weights)
    largest, step = (127, scale[:, None]) if weights == "int8" else (448, weight.abs() / 8)  # FP8 has 4 bits' precision
    assert torch.allclose(scale, weight.abs().amax(dim=1) / largest)
    assert ((values.float() * scale[:, None] - weight).abs() <= 0.501 * step + 1e-3 * scale[:, None]).all()
