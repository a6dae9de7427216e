from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import without
from onnx import numpy_helper

from vitquant import artifact, recipes
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.params import Recipe

LAYERS = 6 * 4  # blocks × (qkv, proj, fc1, fc2)


def recipe(precision: str) -> Recipe:
    return Recipe.model_validate({"method": "onnxruntime", "precision": precision})


@pytest.fixture(scope="module")
def built(fp32: Path, calibration, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnxruntime")
    for name, precision in (("fp32", "fp32"), ("int8", "int8"), ("again", "int8")):
        recipes.build(name, recipe(precision), fp32, folder / name, calibration)
    return {path.name: path for path in folder.iterdir()}


def test_fp32_is_the_baseline_to_rounding(fp32: Path, prepared, built: dict[str, Path]) -> None:
    reference, predictor = recipes.load(fp32), recipes.load(built["fp32"])
    for size in (1, 5):
        images = prepared.images("val")[:size]
        assert np.abs(predictor(images) - reference(images)).max() < 1e-4


def test_int8_is_close_and_small(fp32: Path, prepared, built: dict[str, Path]) -> None:
    images = prepared.images("val")
    reference, logits = recipes.load(fp32)(images), recipes.load(built["int8"])(images)
    assert 0 < np.abs(logits - reference).max() < 0.1 * np.abs(reference).max()
    fp32_bytes, int8_bytes = (artifact.open_artifact(built[name]).size_bytes for name in ("fp32", "int8"))
    assert int8_bytes < 0.5 * fp32_bytes  # a ViT-S: 0.27; here the graph itself weighs more


def test_building_twice_gives_the_same_bits(prepared, built: dict[str, Path]) -> None:
    assert (built["int8"] / "model.onnx").read_bytes() == (built["again"] / "model.onnx").read_bytes()
    images = prepared.images("val")
    assert np.array_equal(recipes.load(built["int8"])(images), recipes.load(built["again"])(images))


def test_the_weights_are_those_of_the_definition(fp32: Path, built: dict[str, Path]) -> None:
    graph = onnx.load(built["int8"] / "model.onnx").graph
    tensors = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    integers = [node.input[1] for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(integers) == artifact.open_artifact(built["int8"]).spec.details["quantized_layers"] == LAYERS
    floats = artifact.read_weights(fp32)
    expected = floats["backbone.blocks.0.attn.qkv.weight"].numpy()
    weight = tensors[integers[0]]  # (in, out), as MatMul takes it
    scale = tensors[integers[0].removesuffix("_quantized") + "_scale"]
    assert weight.dtype == np.int8
    assert scale.shape == (len(expected),)
    assert np.allclose(scale, np.abs(expected).max(axis=1) / 127, rtol=1e-5)  # symmetric over -127 … 127
    assert (np.abs((weight * scale).T - expected) <= 0.501 * scale[:, None]).all()
    assert np.array_equal(tensors["head.weight_Transposed"].T, floats["head.weight"].numpy())


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_several_threads_give_the_same_as_one(prepared, built: dict[str, Path], name: str) -> None:
    images = [image[None] for image in prepared.images("val")]
    alone = list(map(recipes.load(built[name]), images))
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        together = list(pool.map(recipes.load(built[name]), images))
    assert np.array_equal(np.concatenate(together), np.concatenate(alone))


def test_the_artifact_is_one_onnx_file(built: dict[str, Path]) -> None:
    for path in built.values():
        assert sorted(file.name for file in path.iterdir()) == ["model.onnx", "recipe.json"]


def test_a_build_that_stops_half_way_leaves_no_artifact(fp32: Path, calibration, tmp_path: Path) -> None:
    artifact.write(tmp_path / "fp32", artifact.open_artifact(fp32).spec, lambda _: {})  # no weights in it
    with pytest.raises(FileNotFoundError):
        recipes.build("r", recipe("int8"), tmp_path / "fp32", tmp_path / "r", calibration)
    assert [path.name for path in tmp_path.iterdir()] == ["fp32"]


def test_without_onnxruntime_the_artifact_is_unavailable(fp32: Path, calibration, tmp_path: Path) -> None:
    reason = without("onnxruntime", recipe("int8"), fp32, tmp_path / "r")
    assert reason == "onnxruntime is not installed: pip install onnxruntime"
    with pytest.raises(UnsupportedError, match="onnxruntime is not installed"):
        recipes.load(tmp_path / "r")


def test_a_precision_that_the_method_does_not_have() -> None:
    with pytest.raises(VitquantError, match=r"recipes.r: precision: Input should be 'fp32' or 'int8' \(got 'int4'\)"):
        recipes.check_options("r", recipe("int4"))
