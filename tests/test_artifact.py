import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vitquant import artifact, recipes
from vitquant.artifact import Preprocessing
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.models.loading import load_model
from vitquant.predictor import read_weights


@pytest.fixture
def own(fp32: Path, tmp_path: Path) -> Path:
    """A copy of the FP32 artifact that the test may spoil."""
    return Path(shutil.copytree(fp32, tmp_path / "artifact"))


def test_it_predicts_from_uint8_images(fp32: Path, prepared) -> None:
    predictor = recipes.load(fp32)
    images = prepared.images("val")[:3]
    logits = predictor(images)
    assert logits.shape == (3, 6)
    assert logits.dtype == np.float32
    assert predictor.artifact.spec.classes == prepared.classes


def test_the_class_token_lies_beside_the_logits(fp32: Path, prepared) -> None:
    predictor, images = recipes.load(fp32), prepared.images("val")[:3]
    outputs = predictor.outputs(images)
    assert (outputs.shape, outputs.dtype) == ((3, 6 + 64), np.float32)
    assert np.array_equal(outputs[:, :6], predictor(images))
    model = load_model(predictor.artifact)
    with torch.inference_mode():
        tokens = model.backbone.forward_features(predictor.preprocess(images))
    assert np.array_equal(outputs[:, 6:], tokens[:, 0].numpy())


def test_normalisation() -> None:
    preprocessing = Preprocessing(
        resize=4, crop=4, interpolation="bicubic", mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 0.1]
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    expected = (images / 255 - [0.5, 0.25, 0.0]) / [0.5, 0.25, 0.1]
    tensor = preprocessing.normalise(torch.from_numpy(images))
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert np.abs(tensor.numpy() - expected.transpose(0, 3, 1, 2)).max() < 1e-5


def test_images_of_another_shape_are_refused(fp32: Path) -> None:
    predictor = recipes.load(fp32)
    with pytest.raises(
        VitquantError, match=r"takes uint8 images of shape \(N, 64, 64, 3\), not uint8 \(1, 32, 32, 3\)"
    ):
        predictor(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(VitquantError, match="not float32"):
        predictor(np.zeros((1, 64, 64, 3), np.float32))


def test_the_size_is_that_of_all_files(fp32: Path) -> None:
    files = list(fp32.iterdir())
    assert {file.name for file in files} == {"recipe.json", "model.safetensors", "reference.safetensors"}
    assert artifact.open_artifact(fp32).size_bytes == sum(file.stat().st_size for file in files)


def test_a_missing_directory_and_a_missing_file(own: Path, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="none is not an artifact directory"):
        recipes.load(tmp_path / "none")
    (own / "model.safetensors").unlink()
    with pytest.raises(VitquantError, match="model.safetensors is missing: make it again"):
        recipes.load(own)
    (own / "recipe.json").unlink()
    with pytest.raises(VitquantError, match="recipe.json is missing"):
        recipes.load(own)


def test_a_truncated_and_a_changed_file(own: Path) -> None:
    file = own / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(VitquantError, match=f"has {len(content) - 10} bytes, expected {len(content)}"):
        recipes.load(own)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VitquantError, match="has changed since it was written"):
        recipes.load(own)


def test_a_spec_that_is_not_one(own: Path) -> None:
    spec = json.loads((own / "recipe.json").read_text())
    (own / "recipe.json").write_text(json.dumps({**spec, "classes": "many"}))
    with pytest.raises(VitquantError, match="recipe.json: classes: .*list"):
        recipes.load(own)
    (own / "recipe.json").write_text(json.dumps({**spec, "method": "../evil"}))
    with pytest.raises(VitquantError, match="unknown recipe method '../evil'"):
        recipes.load(own)


def spoil(path: Path, value: float) -> None:
    """Overwrite one weight of the head, keeping the digests right, as a broken build would."""
    opened = artifact.open_artifact(path)
    tensors = {name: tensor.clone() for name, tensor in read_weights(path).items()}
    tensors["head.weight"][0, 0] = value

    def fill(directory: Path) -> dict:
        from safetensors.torch import save_file

        save_file(tensors, directory / artifact.WEIGHTS_FILE)
        return {}

    artifact.write(path, opened.spec, fill)


def test_nan_in_the_logits(own: Path, prepared) -> None:
    spoil(own, float("nan"))
    with pytest.raises(VitquantError, match="gives NaN or infinite logits"):
        recipes.load(own).outputs(prepared.images("val")[:1])


def test_nan_in_the_weights_is_not_written(own: Path, calibration, tmp_path: Path) -> None:
    spoil(own, float("nan"))
    from vitquant.params import Recipe

    with pytest.raises(VitquantError, match="head.weight holds NaN or infinity"):
        recipes.build("fp32", Recipe(method="fp32"), own, tmp_path / "out", calibration)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_run_here_says_so(fp32: Path, tmp_path: Path) -> None:
    def fill(directory: Path) -> dict:
        (directory / "half").touch()
        raise UnsupportedError("needs a CPU of the next century")

    artifact.write(tmp_path / "out", artifact.open_artifact(fp32).spec, fill)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["recipe.json"]
    with pytest.raises(UnsupportedError, match="next century"):
        recipes.load(tmp_path / "out")


def test_an_interrupted_build_leaves_no_artifact(fp32: Path, tmp_path: Path) -> None:
    def fill(directory: Path) -> dict:
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact.write(tmp_path / "out", artifact.open_artifact(fp32).spec, fill)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {}}, "lists no files"),
        ({"files": {"../fp32/model.safetensors": {"sha256": "0" * 64, "bytes": 1}}}, "which recipe.json does not list"),
    ],
)
def test_files_that_are_not_the_artifacts_own(fp32: Path, tmp_path: Path, change: dict, message: str) -> None:
    shutil.copytree(fp32, tmp_path / "copy")
    spec = json.loads((tmp_path / "copy/recipe.json").read_text())
    (tmp_path / "copy/recipe.json").write_text(json.dumps(spec | change))
    with pytest.raises(VitquantError, match=message):
        artifact.open_artifact(tmp_path / "copy")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret"])
def test_a_path_that_leaves_the_artifact(fp32: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(fp32, tmp_path / "copy")
    (tmp_path / "secret").write_text("x")
    spec = json.loads((tmp_path / "copy/recipe.json").read_text())
    spec["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (tmp_path / "copy/recipe.json").write_text(json.dumps(spec))
    with pytest.raises(VitquantError, match="it lies outside of the artifact"):
        artifact.open_artifact(tmp_path / "copy")


def test_whoever_may_read_one_file_may_read_all(fp32: Path) -> None:
    """The server in a container is another user."""
    assert len({file.stat().st_mode for file in fp32.iterdir()}) == 1
