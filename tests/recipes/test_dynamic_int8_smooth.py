"""The linear layer of dynamic-int8-smooth; test_vitquant_int8.py has the recipe as a whole."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from vitquant.engines.quantized_engine import quantized_tensor, use_engine
from vitquant.quantization import rounding
from vitquant.recipes.dynamic_int8_smooth import FineClassTokenLinear

OUTPUTS, INPUTS, TOKENS = 24, 64, 17


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_and_equivalent(bias: Tensor | None) -> tuple[FineClassTokenLinear, Tensor]:
    """The layer, and its weights, rounded, in FP32."""
    use_engine("auto")
    weight = random(OUTPUTS, INPUTS, seed=0)
    scale = rounding.scales(weight)
    integers = rounding.nearest(weight, scale)
    layer = FineClassTokenLinear(INPUTS, OUTPUTS)
    layer.set_weight_bias(quantized_tensor(integers, scale, torch.zeros(OUTPUTS, dtype=torch.int8)), bias)
    return layer, integers * scale[:, None]


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("bias", [random(OUTPUTS, seed=1), None], ids=["bias", "no bias"])
@pytest.mark.parametrize("size", [0.3, 1.0, 30.0])  # of the class token beside the other tokens
def test_the_class_token_is_multiplied_finely(images: int, bias: Tensor | None, size: float) -> None:
    layer, weight = layer_and_equivalent(bias)
    x = random(images, TOKENS, INPUTS, seed=2)
    x[:, 0] = x[:, 0] * size + 2 * size
    kept = x.clone()
    errors, own = (layer(x) - linear(x, weight, bias)).abs(), x[:, 0].abs().max()
    assert errors[:, 0].max() < 1e-3 * own
    coarse = 0.1 if torch.cpu._is_vnni_supported() else 0.2  # 8 bits or 7
    assert 1e-3 * x.abs().max() < errors[:, 1:].max() < coarse * x.abs().max()
    assert torch.equal(x, kept)


def test_all_other_tokens_go_through_pytorchs_kernel() -> None:
    layer, _ = layer_and_equivalent(random(OUTPUTS, seed=1))
    x = random(2, TOKENS, INPUTS, seed=2)
    packed, reduce_range = layer._packed_params._packed_params, not torch.cpu._is_vnni_supported()
    expected = torch.ops.quantized.linear_dynamic(x, packed, reduce_range)
    assert torch.equal(layer(x)[:, 1:], expected[:, 1:])


def test_a_class_token_of_zeros() -> None:
    bias = random(OUTPUTS, seed=1)
    layer, _ = layer_and_equivalent(bias)
    x = random(1, TOKENS, INPUTS, seed=2)
    x[:, 0] = 0
    assert torch.allclose(layer(x)[:, 0], bias, atol=1e-6)
