from pathlib import Path

import pytest
import torch

from vitquant import artifact, recipes
from vitquant.models.loading import load_model
from vitquant.predictor import read_weights
from vitquant.quantization.observe import Inputs, observe
from vitquant.recipes.int4_weight_only import GROUP

from .examples import EXAMPLES, Built

LAYER = "backbone.blocks.0.mlp.fc1"


@pytest.fixture(scope="module")
def int4(built: Built) -> Path:
    return built("int4-weight-only")


def restored(integers: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
    """From integers (out, in), scale and minimum, (out, in / 32, 1)."""
    return (integers.unflatten(1, (-1, GROUP)) * scale.float() + minimum.float()).flatten(1)


def test_the_packed_layer_computes_its_definition(int4: Path) -> None:
    tensors = read_weights(int4)
    packed, scale, minimum, bias = (tensors[f"{LAYER}.{part}"] for part in ("weight", "scale", "minimum", "bias"))
    integers = torch.empty(len(packed), 2 * packed.shape[1])
    integers[:, 0::2], integers[:, 1::2] = packed % 16, packed // 16
    inputs = torch.randn(7, integers.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
    layer = recipes.load(int4)._forward.get_submodule(f"model.{LAYER}")
    expected = inputs.float() @ restored(integers, scale, minimum).t() + bias.float()
    assert torch.allclose(layer(inputs).float(), expected, atol=0.02 * float(expected.abs().max()))


def test_gptq_on_the_calibration_images_loses_less_than_rounding_to_nearest(
    int4: Path, fp32: Path, calibration
) -> None:
    opened = artifact.open_artifact(fp32)
    model = load_model(opened)
    images = opened.spec.preprocessing.normalise(torch.from_numpy(calibration))
    moment = observe(model, [images], [LAYER], Inputs)[LAYER].moment().float()
    exact = model.get_submodule(LAYER).weight

    def loss(weight: torch.Tensor) -> float:
        error = weight - exact
        return float(torch.einsum("oi,ij,oj->", error, moment, error))

    groups = exact.unflatten(1, (-1, GROUP))
    low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
    nearest = restored(((groups - low) / (high - low) * 15).round().flatten(1), (high - low) / 15, low)
    tensors = read_weights(int4)
    packed, scale, minimum = (tensors[f"{LAYER}.{part}"] for part in ("weight", "scale", "minimum"))
    assert loss(restored(torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1), scale, minimum)) < 0.7 * loss(
        nearest
    )


def test_a_layer_takes_a_fifth_of_the_bytes_with_scales_and_minima(int4: Path, fp32: Path) -> None:
    name = f"{LAYER}.weight"
    layer = [tensor.nbytes for key, tensor in read_weights(int4).items() if key.startswith(f"{LAYER}.")]
    assert sum(layer) < 0.2 * read_weights(fp32)[name].nbytes


def test_layers_that_do_not_divide_into_groups(
    fp32: Path, calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitquant.recipes.int4_weight_only.GROUP", 48)
    recipes.build("r", EXAMPLES["int4-weight-only"].recipe, fp32, tmp_path / "r", calibration)
    unavailable = artifact.open_artifact(tmp_path / "r").spec.unavailable
    assert unavailable == "INT4 needs layers of a multiple of 48 inputs, not 64"
