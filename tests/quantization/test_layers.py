import pytest
import torch
from torch import Tensor, nn

from vitquant.models.vit import ViTClassifier
from vitquant.quantization.layers import (
    FLOAT8,
    FP8,
    INT8,
    INT8_FULL,
    DynamicLinear,
    Levels,
    Smoothed,
    WeightOnlyLinear,
    replace_linear,
)

INPUTS, OUTPUTS = 64, 48


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Values, scale and bias."""
    return (30 * random(OUTPUTS, INPUTS)).clamp(-127, 127).to(dtype), random(OUTPUTS).exp() / 30, random(OUTPUTS)


def near(given: Tensor, expected: Tensor) -> bool:
    """To the rounding of what is given, relative to the largest value."""
    error = 1e-2 if given.dtype == torch.bfloat16 else 1e-5
    return float((given.float() - expected).abs().max()) < error * float(expected.abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("levels", [INT8, INT8_FULL, FP8], ids=["int8", "int8-full", "fp8"])
def test_each_token_is_quantized_by_its_own_largest_magnitude(levels: Levels, bias: bool) -> None:
    values, scale, offset = weights(levels.dtype)
    layer = DynamicLinear(values, scale, offset if bias else None, levels)
    inputs = random(2, 10, INPUTS, seed=1) * random(2, 10, 1, seed=2).exp()
    inputs = inputs.bfloat16() if levels is FP8 else inputs
    token_scale = inputs.float().abs().amax(dim=-1, keepdim=True) / levels.largest
    tokens = (inputs.float() * (1 / token_scale)).clamp(levels.lowest, levels.highest)
    tokens = tokens.to(FLOAT8).float() if levels is FP8 else tokens.round()
    expected = tokens @ values.float().T * token_scale * scale + (offset if bias else 0)
    assert layer(inputs).dtype == inputs.dtype
    assert near(layer(inputs), expected)


def test_levels_are_by_default_those_of_the_weights_type() -> None:
    assert DynamicLinear(*weights(torch.int8)).levels is INT8
    assert DynamicLinear(*weights(FLOAT8)).levels is FP8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.int8, FLOAT8])
def test_inputs_of_a_weight_only_layer_stay_as_they_are(dtype: torch.dtype, bias: bool) -> None:
    values, scale, offset = weights(dtype)
    inputs = random(2, 7, INPUTS, seed=1).bfloat16()
    given = WeightOnlyLinear(values, scale, offset.bfloat16() if bias else None)(inputs)
    assert given.dtype == torch.bfloat16
    assert near(given, inputs.float() @ (values.float() * scale[:, None]).T + (offset if bias else 0))


def test_a_token_of_zeros_gives_the_bias() -> None:
    layer = DynamicLinear(torch.ones(8, 16, dtype=torch.int8), torch.ones(8), torch.arange(8.0))
    assert torch.equal(layer(torch.zeros(20, 16).half()), torch.arange(8.0).half().expand(20, 8))


def test_smoothed() -> None:
    centre, inverse, x = random(INPUTS, seed=1), random(INPUTS, seed=2).exp(), random(2, 7, INPUTS)
    kept, given = x.clone(), Smoothed(centre, inverse)(x)
    assert torch.equal(given, (x - centre) * inverse)
    assert torch.equal(x, kept)


def test_the_backbones_linear_layers_are_replaced_and_the_head_stays() -> None:
    with torch.device("meta"):
        model = ViTClassifier("test_vit", 64, 6)
    head, replaced = model.head, []

    def replacement(layer: nn.Linear) -> nn.Module:
        replaced.append(layer)
        return nn.Linear(1, 1)  # a linear layer too, which is not replaced again

    assert replace_linear(model, replacement) is model
    assert model.head is head
    assert len(replaced) == len(set(replaced)) == 6 * 4  # blocks × (qkv, proj, fc1, fc2)
    assert {layer.in_features for layer in model.backbone.modules() if isinstance(layer, nn.Linear)} == {1}
