from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import without
from onnx import numpy_helper

from vitquant import artifact, recipes
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.predictor import read_weights

from .examples import EXAMPLES, Built, recipe
from .vision_transformer import BLOCKS

LAYERS = BLOCKS * 4  # qkv, proj, fc1 and fc2


def test_the_weights_are_those_of_the_definition(fp32: Path, built: Built) -> None:
    int8 = built("onnxruntime-int8")
    graph = onnx.load(int8 / "model.onnx").graph
    tensors = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    integers = [node.input[1] for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(integers) == artifact.open_artifact(int8).spec.details["quantized_layers"] == LAYERS
    floats = read_weights(fp32)
    expected = floats["backbone.blocks.0.attn.qkv.weight"].numpy()
    weight = tensors[integers[0]]  # (in, out), as MatMul takes it
    scale = tensors[integers[0].removesuffix("_quantized") + "_scale"]
    assert weight.dtype == np.int8
    assert scale.shape == (len(expected),)
    assert np.allclose(scale, np.abs(expected).max(axis=1) / 127, rtol=1e-5)  # symmetric over -127 … 127
    assert (np.abs((weight * scale).T - expected) <= 0.501 * scale[:, None]).all()
    assert np.array_equal(tensors["head.weight_Transposed"].T, floats["head.weight"].numpy())


def test_the_thread_that_loads_it_still_has_denormals(built: Built) -> None:
    """A session can take them away, from all that runs there."""
    recipes.load(built("onnxruntime-fp32"))
    assert torch.full((8,), 1e-40).mul(1).count_nonzero() == 8


def test_without_onnxruntime_the_artifact_is_unavailable(fp32: Path, tmp_path: Path) -> None:
    reason = without("onnxruntime", EXAMPLES["onnxruntime-int8"].recipe, fp32, tmp_path / "r")
    assert reason == "onnxruntime is not installed: pip install onnxruntime"
    with pytest.raises(UnsupportedError, match="onnxruntime is not installed"):
        recipes.load(tmp_path / "r")


def test_a_precision_that_the_method_does_not_have() -> None:
    with pytest.raises(VitquantError, match=r"recipes.r: precision: Input should be 'fp32' or 'int8' \(got 'int4'\)"):
        recipes.check_options("r", recipe("onnxruntime", precision="int4"))
