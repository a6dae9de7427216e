from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from vitquant import artifact, recipes
from vitquant.models.loading import load_model
from vitquant.predictor import read_weights

from .examples import Built

LAYER = "backbone.blocks.0.mlp.fc1"


@pytest.fixture(scope="module")
def int8(built: Built) -> Path:
    return built("int8-weight-only")


def test_it_is_as_near_to_fp32_as_torchao(int8: Path, fp32: Path, prepared) -> None:
    predictor, images = recipes.load(int8), prepared.images("val")[:8]
    floats = recipes.load(fp32)(images)
    model = load_model(artifact.open_artifact(fp32))
    model.backbone.to(torch.bfloat16)
    quantize_(model.backbone, Int8WeightOnlyConfig(set_inductor_config=False))
    with torch.inference_mode():
        features = model.features(predictor.preprocess(images).bfloat16())
        theirs = model.head(features.float()).numpy()
    assert np.linalg.norm(predictor(images) - floats) < 1.5 * np.linalg.norm(theirs - floats)


def test_the_scales_are_those_of_the_definition(int8: Path, fp32: Path) -> None:
    floats, integers = read_weights(fp32), read_weights(int8)
    weight, scale = floats[f"{LAYER}.weight"], integers[f"{LAYER}.scale"]
    assert torch.equal(scale, (weight.abs().amax(dim=1) / 127).bfloat16())
    assert integers[f"{LAYER}.weight"].dtype == torch.int8
    error = (integers[f"{LAYER}.weight"] * scale.float()[:, None] - weight).abs()
    assert (error <= 1.01 * scale.float()[:, None]).all()  # half a step, and half at the ends of the range
    assert torch.equal(integers["head.weight"], floats["head.weight"])


def test_no_layer_keeps_a_float_weight(int8: Path) -> None:
    modules = dict(recipes.load(int8)._forward.named_modules())
    assert [name for name, module in modules.items() if isinstance(module, nn.Linear)] == ["model.head"]
