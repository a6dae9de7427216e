"""ViTs whose blocks have no `attn` and `mlp`: a recipe takes them, or says why not. The compilers are left out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitquant import artifact, recipes
from vitquant.data.prepared import Prepared
from vitquant.models import baseline
from vitquant.params import Params, RandomModel

from .examples import EXAMPLES, Run
from .vision_transformer import vit_of_attention_beside_mlp, vit_of_parallel_things

TAKE = (
    "dynamic-int8",
    "floating-point-fp16",
    "int4-weight-only",
    "int8-weight-only",
    "onnxruntime-fp32",
    "onnxruntime-int8",
    "openvino-fp32",
    "openvino-int8",
)
SMOOTH = ("dynamic-int8-smooth", "vitquant-int8")


@pytest.fixture(scope="module", params=[vit_of_parallel_things, vit_of_attention_beside_mlp], ids=lambda f: f.__name__)
def parallel(request, params: Params, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP32 artifact."""
    model: Callable = request.param
    path = tmp_path_factory.mktemp(model.__name__) / "baseline"
    own = params.model_copy(update={"model": RandomModel(source="random", name=model.__name__, seed=0)})
    baseline.build(own, Path("unused"), prepared, path, threads=2)
    return path


def predict(path: Path, images: np.ndarray) -> np.ndarray:
    return recipes.load(path)(images)


@pytest.mark.parametrize("name", TAKE)
def test_it_is_close_to_fp32(name: str, run: Run, parallel: Path, prepared: Prepared, calibration, tmp_path) -> None:
    images = np.array(prepared.images("val")[:4])
    run(name, recipes.build, name, EXAMPLES[name].recipe, parallel, tmp_path / "r", calibration)
    logits, expected = run(name, predict, tmp_path / "r", images), predict(parallel, images)
    assert np.abs(logits - expected).max() <= EXAMPLES[name].tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", SMOOTH)
def test_smoothing_says_what_it_does_not_take(name: str, parallel: Path, calibration, tmp_path: Path) -> None:
    recipes.build(name, EXAMPLES[name].recipe, parallel, tmp_path / "r", calibration)
    reason = artifact.open_artifact(tmp_path / "r").spec.unavailable
    assert reason
    assert "smoothing does not know block 0 of this model" in reason
    assert "it is of type Parallel" in reason or "norm is of type RmsNorm" in reason


def test_layers_without_a_bias_load(parallel: Path, calibration, tmp_path: Path) -> None:
    """As eight_bit's other recipes would: it compiles when it first runs."""
    recipes.build("r", EXAMPLES["eight-bit-int8"].recipe, parallel, tmp_path / "r", calibration)
    assert recipes.load(tmp_path / "r").artifact.spec.unavailable is None
