from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from vitquant import artifact, recipes
from vitquant.artifact import Artifact
from vitquant.params import Recipe
from vitquant.recipes import compiled


@pytest.fixture(scope="module")
def built(fp32: Path, calibration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "r"
    recipe = Recipe.model_validate({"method": "compiled", "dtype": "float32"})
    recipes.build("r", recipe, fp32, path, calibration)
    return path


def test_it_gives_what_the_eager_model_gives(built: Path, fp32: Path, prepared) -> None:
    images = prepared.images("val")[:5]
    assert np.allclose(recipes.load(built)(images), recipes.load(fp32)(images), atol=1e-4)


def test_loaded_twice_it_gives_the_same_bits(built: Path, prepared) -> None:
    images = prepared.images("val")[:5]
    assert np.array_equal(recipes.load(built)(images), recipes.load(built)(images))


def test_the_artifact_holds_weights_and_nothing_that_runs(built: Path) -> None:
    assert sorted(file.name for file in built.iterdir()) == ["model.safetensors", "recipe.json"]


def test_bfloat16_is_the_backbone_s_and_the_head_stays_float32(fp32: Path, prepared, tmp_path: Path) -> None:
    floats, reference = artifact.read_weights(fp32), recipes.load(fp32)
    weights = compiled.cast(floats, torch.bfloat16)
    for name, tensor in weights.items():
        assert torch.equal(tensor, floats[name] if name.startswith("head.") else floats[name].bfloat16())
    artifact.write_weights(tmp_path, weights)
    images = prepared.images("val")[:5]
    with torch.inference_mode():
        logits = compiled.module(Artifact(tmp_path, reference.artifact.spec))(reference.preprocess(images))
    expected = reference(images)
    assert logits.dtype == torch.float32
    assert np.abs(logits.numpy() - expected).max() < 0.05 * np.abs(expected).max()


def test_interrupted_it_leaves_no_artifact(
    fp32: Path, calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(opened: Artifact) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "load_model", interrupt)
    recipe = Recipe.model_validate({"method": "compiled", "dtype": "float32"})
    with pytest.raises(KeyboardInterrupt):
        recipes.build("r", recipe, fp32, tmp_path / "models" / "r", calibration)
    assert list((tmp_path / "models").iterdir()) == []
    assert [path.suffix for path in (tmp_path / "cache" / "compiled").iterdir()] == [".lock"]
