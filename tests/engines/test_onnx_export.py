import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from vitquant import artifact, recipes
from vitquant.artifact import WEIGHTS_FILE, Artifact
from vitquant.engines.onnx_export import LARGEST, export
from vitquant.predictor import read_weights


@pytest.fixture(scope="module")
def exported(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(artifact.open_artifact(fp32), file)
    return file


def test_it_is_the_model_at_any_batch_size(fp32: Path, prepared, exported: Path) -> None:
    onnx.checker.check_model(exported, full_check=True)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    predictor = recipes.load(fp32)
    for size in (1, 2, 5):
        images = prepared.images("val")[:size]
        (outputs,) = session.run(["outputs"], {"images": predictor.preprocess(images).numpy()})
        assert np.abs(outputs - predictor.outputs(images)).max() < 1e-4


def test_it_holds_the_weights_and_no_path_of_this_machine(fp32: Path, exported: Path) -> None:
    graph = onnx.load(exported).graph
    tensors = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    assert np.array_equal(tensors["head.weight"], read_weights(fp32)["head.weight"].numpy())
    assert not re.search(rb"\.py|/site-packages", exported.read_bytes())


def test_weights_beyond_what_a_file_holds_make_the_recipe_unavailable(fp32: Path, tmp_path: Path) -> None:
    (tmp_path / "fp32").mkdir()
    large = Artifact(tmp_path / "fp32", artifact.open_artifact(fp32).spec)
    with (large.path / WEIGHTS_FILE).open("wb") as file:
        file.truncate(LARGEST + 1)  # sparse: it takes no room on the disk
    method = recipes.method("onnxruntime")
    options, images = method.Options(precision="fp32"), np.zeros((1, 64, 64, 3), np.uint8)
    artifact.write(tmp_path / "r", large.spec, lambda folder: method.build(large, folder, options, images))
    found = artifact.open_artifact(tmp_path / "r").spec
    assert found.unavailable == "an ONNX file holds 2 GiB at most, and this model's weights are 1.98 GiB"
    assert not found.files
