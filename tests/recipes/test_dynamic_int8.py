import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.ao.nn.quantized import dynamic as nnqd
from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

from vitquant import artifact, recipes
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.models.loading import empty_model, load_model
from vitquant.params import Recipe
from vitquant.predictor import read_weights

from .examples import Built
from .vision_transformer import BLOCKS

LAYERS = BLOCKS * 4  # qkv, proj, fc1 and fc2


def recipe(**options: object) -> Recipe:
    return Recipe.model_validate(
        {"method": "dynamic_int8", "per_channel": False, "keep_float": ["head"], "engine": "auto", **options}
    )


@pytest.fixture(scope="module", params=["dynamic-int8", "dynamic-int8-per-channel"])
def dynamic(request: pytest.FixtureRequest, built: Built) -> Path:
    return built(request.param)


def test_it_equals_quantize_dynamic_bit_for_bit(dynamic: Path, fp32: Path, prepared) -> None:
    model = load_model(artifact.open_artifact(fp32))
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "head"]
    qconfig = per_channel_dynamic_qconfig if dynamic.name.endswith("per-channel") else default_dynamic_qconfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = quantize_dynamic(model, dict.fromkeys(names, qconfig))
    predictor = recipes.load(dynamic)
    images = prepared.images("val")[:4]
    with torch.inference_mode():
        assert np.array_equal(predictor.outputs(images), expected(predictor.preprocess(images)).numpy())
    assert predictor.artifact.spec.details["quantized_layers"] == len(names) == LAYERS


def test_no_float_weights_are_allocated_for_what_is_quantized(fp32: Path) -> None:
    """A skeleton with weights would count as the INT8 recipe's peak memory."""
    model = empty_model(artifact.open_artifact(fp32))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_the_scales_are_those_of_the_definition(dynamic: Path, fp32: Path) -> None:
    floats, integers = read_weights(fp32), read_weights(dynamic)
    name = "backbone.blocks.0.mlp.fc1"
    weight = floats[f"{name}.weight"]
    largest = weight.abs().amax(dim=1) if dynamic.name.endswith("per-channel") else weight.abs().max()
    assert torch.allclose(integers[f"{name}.scale"].float(), largest / 127.5)  # symmetric over -128 … 127
    restored = integers[f"{name}.scale"].reshape(-1, 1) * integers[f"{name}.weight"]
    assert integers[f"{name}.weight"].dtype == torch.int8
    assert ((restored - weight).abs() <= integers[f"{name}.scale"].reshape(-1, 1) * 0.501).all()
    assert torch.equal(integers["head.weight"], floats["head.weight"])


def test_all_but_linear_layers_stay_float(dynamic: Path, fp32: Path) -> None:
    floats, integers = read_weights(fp32), read_weights(dynamic)
    kept = {name for name, tensor in integers.items() if name in floats and torch.equal(tensor, floats[name])}
    changed = {name for name in floats if name not in kept}
    assert len(changed) == LAYERS
    assert all(name.endswith((".qkv.weight", ".proj.weight", ".fc1.weight", ".fc2.weight")) for name in changed)


def test_layers_are_kept_by_glob(fp32: Path, calibration, tmp_path: Path) -> None:
    recipes.build("r", recipe(keep_float=["head", "backbone.blocks.*.mlp.fc2"]), fp32, tmp_path / "r", calibration)
    forward = recipes.load(tmp_path / "r")._forward
    kinds = {name: type(module) for name, module in forward.named_modules()}
    assert kinds["backbone.blocks.1.mlp.fc2"] is torch.nn.Linear
    assert kinds["backbone.blocks.1.mlp.fc1"] is nnqd.Linear
    assert kinds["head"] is torch.nn.Linear


@pytest.mark.parametrize(
    ("globs", "message"),
    [(["heads"], "keep_float: 'heads' matches no linear layer"), (["*"], "leaves no linear layer to quantize")],
)
def test_globs_that_make_no_sense(fp32: Path, calibration, tmp_path: Path, globs: list[str], message: str) -> None:
    with pytest.raises(VitquantError) as error:
        recipes.build("r", recipe(keep_float=globs), fp32, tmp_path / "r", calibration)
    assert message in str(error.value)
    assert not (tmp_path / "r").exists()


def test_every_engine_of_this_build_runs_and_is_recorded(fp32: Path, prepared, calibration, tmp_path: Path) -> None:
    reference = recipes.load(fp32)(prepared.images("val")[:2])
    for engine in torch.backends.quantized.supported_engines:
        if engine == "none":
            continue
        recipes.build("r", recipe(engine=engine), fp32, tmp_path / engine, calibration)
        predictor = recipes.load(tmp_path / engine)
        assert predictor.artifact.spec.details["engine"] == torch.backends.quantized.engine == engine
        assert np.abs(predictor(prepared.images("val")[:2]) - reference).max() < np.abs(reference).max()


def test_an_engine_that_this_build_lacks(
    fp32: Path, calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"])
    recipes.build("r", recipe(engine="fbgemm"), fp32, tmp_path / "r", calibration)
    with pytest.raises(UnsupportedError, match="no quantized engine 'fbgemm'"):
        recipes.load(tmp_path / "r")
    with pytest.raises(UnsupportedError, match="it has qnnpack"):
        recipes.load(tmp_path / "r")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_chanel": True}, "recipes.r: per_chanel: unknown key"),
        ({"per_channel": "yes"}, "recipes.r: per_channel: Input should be a valid boolean (got 'yes')"),
        ({"engine": "cuda"}, "recipes.r: engine:"),
        ({"method": "int3"}, "recipes.r.method: unknown recipe method 'int3': the methods are "),
    ],
)
def test_options_that_the_method_does_not_have(change: dict, message: str) -> None:
    with pytest.raises(VitquantError) as error:
        recipes.check_options("r", recipe(**change))
    assert message in str(error.value)
