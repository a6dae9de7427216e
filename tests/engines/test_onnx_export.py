import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from vitquant import artifact, recipes
from vitquant.engines.onnx_export import export


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
        (logits,) = session.run(["logits"], {"images": predictor.preprocess(images).numpy()})
        assert np.abs(logits - predictor(images)).max() < 1e-4


def test_it_holds_the_weights_and_no_path_of_this_machine(fp32: Path, exported: Path) -> None:
    graph = onnx.load(exported).graph
    tensors = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    assert np.array_equal(tensors["head.weight"], artifact.read_weights(fp32)["head.weight"].numpy())
    assert not re.search(rb"\.py|/site-packages", exported.read_bytes())
