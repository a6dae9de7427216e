from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vitquant import artifact, recipes
from vitquant.errors import UnsupportedError
from vitquant.models.loading import load_model
from vitquant.predictor import read_weights
from vitquant.recipes import static_int8

from .examples import EXAMPLES, Built

LAYER = "backbone.blocks.0.mlp.fc1"


@pytest.fixture(scope="module")
def static(built: Built) -> Path:
    return built("static-int8")


def test_it_gives_what_quantized_and_restored_values_give(static: Path, fp32: Path, prepared) -> None:
    """The definition in floating point: every input and weight rounded to its scale, then an FP32 layer."""
    predictor, tensors = recipes.load(static), read_weights(static)
    model = load_model(artifact.open_artifact(fp32))
    for name, layer in model.named_modules():
        if f"{name}.input_scale" in tensors:
            parts = [tensors[f"{name}.{part}"] for part in ("weight", "scale", "input_scale", "input_zero_point")]
            weight, scale, input_scale, zero_point = parts
            layer.weight = nn.Parameter(weight * scale[:, None], requires_grad=False)
            rounded = partial(
                torch.fake_quantize_per_tensor_affine,
                scale=input_scale.item(),
                zero_point=int(zero_point),
                quant_min=0,
                quant_max=static_int8.highest(),
            )
            layer.register_forward_pre_hook(lambda _, inputs, rounded=rounded: rounded(inputs[0]))
    images = prepared.images("val")[:5]
    with torch.inference_mode():
        expected = model(predictor.preprocess(images)).numpy()
    floats = recipes.load(fp32).outputs(images)
    assert np.abs(predictor.outputs(images) - expected).max() < 0.3 * np.abs(expected - floats).max()


def test_without_vnni_inputs_of_8_bits_are_refused(
    fp32: Path, calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_int8, "highest", lambda: 255)
    recipes.build("r", EXAMPLES["static-int8"].recipe, fp32, tmp_path / "r", calibration)
    monkeypatch.setattr(static_int8, "highest", lambda: 127)
    with pytest.raises(UnsupportedError, match="made on a CPU with VNNI, which this one lacks: quantize again here"):
        static_int8.module(artifact.open_artifact(tmp_path / "r"))


def test_the_scales_are_those_of_the_definition(static: Path, fp32: Path, calibration) -> None:
    opened, integers = artifact.open_artifact(fp32), read_weights(static)
    model = load_model(opened)
    seen: list[torch.Tensor] = []
    layer = model.get_submodule(LAYER)
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(opened.spec.preprocessing.normalise(torch.from_numpy(calibration)))
    low, high = seen[0].min(), seen[0].max()
    scale = integers[f"{LAYER}.input_scale"]
    assert torch.allclose(scale, (high - low) / static_int8.highest(), rtol=1e-4)
    assert integers[f"{LAYER}.input_zero_point"] == (-low / scale).round()
    weight = layer.weight
    assert torch.allclose(integers[f"{LAYER}.scale"], weight.abs().amax(dim=1) / 127)
    restored = integers[f"{LAYER}.weight"] * integers[f"{LAYER}.scale"][:, None]
    assert ((restored - weight).abs() <= 0.501 * integers[f"{LAYER}.scale"][:, None]).all()
    assert "head.scale" not in integers


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (2.0, 5.0), (-5.0, -2.0), (0.0, 0.0)])
def test_zero_is_exact(low: float, high: float) -> None:
    scale, zero_point = static_int8.input_parameters(torch.tensor(low), torch.tensor(high))
    assert 0 <= zero_point <= static_int8.highest()
    assert scale > 0
    assert (static_int8.highest() - zero_point) * scale >= high - scale
    assert -zero_point * scale <= low + scale
