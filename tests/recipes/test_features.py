"""Every engine that knows of a head, on a model that has none: embeddings by each pooling."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitquant import artifact, recipes
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.models import baseline
from vitquant.models.vit import ViTClassifier
from vitquant.params import Params, RandomModel
from vitquant.predictor import write_weights
from vitquant.runtime import bundle, classifier

from .examples import EXAMPLES, Run
from .vision_transformer import vit_of_attention, vit_of_the_normed_mean, vit_of_two_tokens, vit_with_registers

WIDTH = {vit.__name__: 64 for vit in (vit_of_attention, vit_of_the_normed_mean, vit_of_two_tokens)}
WIDTH[vit_with_registers.__name__] = 128


def features(params: Params, prepared: Prepared, path: Path, name: str, pooling: str) -> Path:
    """An FP32 artifact without a classifier."""
    own = {
        "model": RandomModel(source="random", name=name, seed=0),
        "head": "features",
        "embedding": params.embedding.model_copy(update={"pooling": pooling}),
    }
    baseline.build(params.model_copy(update=own), Path("unused"), prepared, path, threads=2)
    return path


def outputs(path: Path, images: Any) -> Any:
    """In a process of its own for some."""
    return recipes.load(path)(images)


@pytest.mark.parametrize(
    ("example", "name", "pooling"),
    [
        ("dynamic-int8", vit_with_registers.__name__, "class"),
        ("dynamic-int8-smooth", vit_with_registers.__name__, "mean"),
        ("floating-point-bf16-whole", vit_with_registers.__name__, "own"),
        ("onnxruntime-int8", vit_of_the_normed_mean.__name__, "own"),
        ("openvino-int8", vit_of_the_normed_mean.__name__, "own"),
        ("openvino-int8", vit_with_registers.__name__, "class"),
        ("vitquant-gpu-int8", vit_with_registers.__name__, "class"),
        ("vitquant-gpu-int8", vit_with_registers.__name__, "mean"),
        ("vitquant-int8", vit_with_registers.__name__, "class"),
        ("vitquant-int8", vit_with_registers.__name__, "mean"),
        ("vitquant-int8", vit_of_attention.__name__, "own"),
        ("vitquant-int8", vit_of_the_normed_mean.__name__, "own"),
        ("vitquant-int8", vit_of_two_tokens.__name__, "own"),
    ],
)
def test_embeddings_are_fp32s_but_for_rounding(
    example: str, name: str, pooling: str, params: Params, prepared: Prepared, calibration, run: Run, tmp_path: Path
) -> None:
    fp32 = features(params, prepared, tmp_path / "fp32", name, pooling)
    assert artifact.open_artifact(fp32).spec.classes == []
    path = tmp_path / example
    run(example, recipes.build, example, EXAMPLES[example].recipe, fp32, path, calibration)
    reason, needs = artifact.open_artifact(path).spec.unavailable, EXAMPLES[example].needs
    if reason and needs and needs in reason:
        pytest.skip(reason)
    images = np.array(prepared.images("val")[:5])
    expected, found = recipes.load(fp32)(images), run(example, outputs, path, images)
    assert expected.shape == found.shape == (5, WIDTH[name])
    cosine = (expected * found).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.min() > 0.99
    if example == "vitquant-int8":
        assert np.array_equal(classifier.load(path)(images), found)
        with pytest.raises(VitquantError, match="gives embeddings: bundles are for classifiers"):
            bundle.write(artifact.open_artifact(path), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("example", "name", "pooling"),
    [
        ("vitquant-gpu-int8", vit_with_registers.__name__, "mean"),
        ("vitquant-int8", vit_with_registers.__name__, "mean"),
        ("vitquant-int8", vit_of_two_tokens.__name__, "two"),
    ],
)
def test_a_classifier_of_other_tokens(
    example: str, name: str, pooling: Any, fp32: Path, prepared: Prepared, calibration, tmp_path: Path
) -> None:
    """Beside its logits stands what it reads first, not always the class token."""
    model = ViTClassifier(name, 64, 6, pooling).requires_grad_(False)
    own = artifact.open_artifact(fp32).spec.model_copy(update={"architecture": name, "pooling": pooling, "files": {}})
    artifact.write(tmp_path / "fp32", own, lambda folder: write_weights(folder, model.state_dict()) or {})
    recipes.build(example, EXAMPLES[example].recipe, tmp_path / "fp32", tmp_path / example, calibration)
    images = np.array(prepared.images("val")[:5])
    expected, found = (recipes.load(tmp_path / each).outputs(images) for each in ("fp32", example))
    assert expected.shape == found.shape == (5, 6 + WIDTH[name])
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_what_the_gpus_kernels_cannot_pool(params: Params, prepared: Prepared, calibration, tmp_path: Path) -> None:
    fp32 = features(params, prepared, tmp_path / "fp32", vit_of_the_normed_mean.__name__, "own")
    recipes.build("vitquant-gpu-int8", EXAMPLES["vitquant-gpu-int8"].recipe, fp32, tmp_path / "int8", calibration)
    reason = artifact.open_artifact(tmp_path / "int8").spec.unavailable
    assert reason == "its head reads more than the class token and the mean patch token"
