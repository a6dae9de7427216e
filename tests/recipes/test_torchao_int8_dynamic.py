from pathlib import Path

import numpy as np
import pytest
import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from vitquant import artifact, recipes
from vitquant.models.loading import load_model
from vitquant.predictor import read_weights
from vitquant.recipes import torchao_int8_dynamic

from .examples import Built

LAYER = "backbone.blocks.0.mlp.fc1"


@pytest.fixture(scope="module")
def dynamic(built: Built) -> Path:
    return built("torchao-int8-dynamic")


def test_each_layer_computes_what_torchao_s_does(dynamic: Path, fp32: Path) -> None:
    """Whole models would differ: a sum in another order moves an activation to the next integer here and there."""
    opened = artifact.open_artifact(dynamic)
    layer = load_model(artifact.open_artifact(fp32)).get_submodule(LAYER)
    inputs = torch.randn(3, 5, layer.in_features, generator=torch.Generator().manual_seed(0))
    quantize_(layer, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    with torch.inference_mode():
        outputs = torchao_int8_dynamic.module(opened).get_submodule(LAYER)(inputs)
        assert torch.allclose(outputs, layer(inputs), atol=1e-5)


def test_compiled_it_gives_what_the_layers_give(dynamic: Path, prepared) -> None:
    predictor, images = recipes.load(dynamic), prepared.images("val")[:5]
    with torch.inference_mode():
        expected = torchao_int8_dynamic.module(predictor.artifact)(predictor.preprocess(images))[:, :6].numpy()
    assert np.abs(predictor(images) - expected).max() < 0.01 * np.abs(expected).max()


def test_the_scales_are_those_of_the_definition(dynamic: Path, fp32: Path) -> None:
    floats, integers = read_weights(fp32), read_weights(dynamic)
    weight, scale = floats[f"{LAYER}.weight"], integers[f"{LAYER}.scale"]
    assert torch.allclose(scale, weight.abs().amax(dim=1) / 127.5)
    assert integers[f"{LAYER}.weight"].dtype == torch.int8
    restored = integers[f"{LAYER}.weight"] * scale[:, None]
    assert ((restored - weight).abs() <= 0.501 * scale[:, None]).all()
    assert torch.equal(integers["head.weight"], floats["head.weight"])
