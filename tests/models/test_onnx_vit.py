from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from vitquant import params
from vitquant.errors import VitquantError
from vitquant.models import onnx_vit, weights
from vitquant.models.vit import ViTClassifier

REPOSITORY = Path(__file__).parents[2]
STUDY = params.load(REPOSITORY / "params.yaml")
REAL = REPOSITORY / "models/raw" / STUDY.model.file
TOKENS = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="module")
def real_file() -> Path:
    if not REAL.is_file():
        pytest.skip(f"{REAL} is not there: `dvc repro fetch` gets it")
    return REAL


def test_the_rebuilt_vit_equals_onnx_runtime_on_the_same_graph(real_file: Path) -> None:
    import onnxruntime

    graph = onnx.load(real_file)
    assert TOKENS in {output for node in graph.graph.node for output in node.output}
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(TOKENS))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    (expected,) = session.run([TOKENS], {"input_image": images})

    model = ViTClassifier(STUDY.model.name, 224, 8).eval()
    weights.load_into(model, STUDY.model, REPOSITORY / "models/raw")
    with torch.inference_mode():
        tokens = model.backbone.forward_features(torch.from_numpy(images)).numpy()
    assert tokens.shape == expected.shape == (2, 257, 384)
    assert np.abs(tokens - expected).max() < 1e-4


def test_a_position_embedding_of_the_same_grid_is_unchanged() -> None:
    parts = [torch.randn(1, 1, 8), torch.randn(1, 9, 8)]
    assert torch.allclose(onnx_vit._position_embedding(parts, 3), torch.cat(parts, dim=1), atol=1e-6)


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    file = tmp_path / "weights.onnx"
    with pytest.raises(VitquantError, match="is not a readable ONNX graph"):
        onnx_vit.state_dict(file, 16)
    file.write_bytes(b"\xff not a graph")
    with pytest.raises(VitquantError, match="is not a readable ONNX graph"):
        onnx_vit.state_dict(file, 16)


def test_a_graph_of_another_model(tmp_path: Path) -> None:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "other.onnx")
    with pytest.raises(VitquantError, match="has no initializer 'backbone.embeddings.cls_token'"):
        onnx_vit.state_dict(tmp_path / "other.onnx", 16)
