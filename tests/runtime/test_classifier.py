"""An artifact without PyTorch: the same logits to the bit, and one line for what cannot be run."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from vitquant import artifact, files, recipes, runtime
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.params import Recipe


@pytest.fixture(scope="module")
def int8(fp32: Path, calibration: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "int8"
    recipes.build("int8", Recipe(method="vitquant_int8"), fp32, path, calibration)
    return path


def test_it_gives_what_the_recipe_gives(int8: Path, prepared: Prepared) -> None:
    images = np.array(prepared.images("val"))
    one, two = runtime.load(int8, threads=1), runtime.load(int8, threads=2)
    expected = recipes.load(int8)(images)
    assert np.array_equal(one(images), expected)
    assert np.array_equal(two(images), expected)
    assert one.classes == prepared.classes
    assert runtime.load(str(int8)).threads >= 1


def test_files_and_contents_are_decoded(int8: Path, images: Path) -> None:
    classifier, some = runtime.load(int8), sorted(images.rglob("*.png"))[:3]
    assert some
    logits = classifier(some)
    assert np.array_equal(classifier([file.read_bytes() for file in some]), logits)
    assert logits.shape == (len(some), len(classifier.classes))


def test_neither_pytorch_nor_timm_is_loaded(int8: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = None\n"
        "import numpy as np; from vitquant import runtime\n"
        "classifier = runtime.load(sys.argv[1]); side = classifier.artifact.spec.preprocessing.crop\n"
        "print(classifier(np.zeros((1, side, side, 3), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program, int8], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"(1, {len(runtime.load(int8).classes)})\n", "")


@pytest.mark.parametrize("bad", [[], np.zeros((0, 64, 64, 3), np.uint8), "cell.png", np.zeros((1, 9, 9, 3), np.uint8)])
def test_other_images_are_refused(int8: Path, bad: object) -> None:
    with pytest.raises(VitquantError):
        runtime.load(int8)(bad)  # type: ignore[arg-type]


def test_logits_that_are_not_finite_are_an_error(int8: Path, tmp_path: Path) -> None:
    def fill(directory: Path) -> dict:
        tensors = load_file(int8 / "model.safetensors")
        tensors["head.weight"][:] = 3e38
        save_file(tensors, directory / "model.safetensors")
        shutil.copyfile(int8 / "network.json", directory / "network.json")
        return {}

    artifact.write(tmp_path / "broken", artifact.open_artifact(int8).spec, fill)
    with pytest.raises(VitquantError, match="gives NaN or infinite logits: its weights are broken"):
        runtime.load(tmp_path / "broken")(np.zeros((1, 64, 64, 3), np.uint8))


def test_an_artifact_that_it_cannot_run_is_named(int8: Path, fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match=f"{fp32} is of method fp32: only vitquant_int8 runs without PyTorch"):
        runtime.load(fp32)

    def refuse(directory: Path) -> dict:
        raise UnsupportedError("no compiler")

    artifact.write(tmp_path / "absent", artifact.open_artifact(int8).spec, refuse)
    with pytest.raises(UnsupportedError, match="recipe.json: no compiler"):
        runtime.load(tmp_path / "absent")
    shutil.copytree(int8, tmp_path / "damaged")
    (tmp_path / "damaged/model.safetensors").write_bytes(b"")
    with pytest.raises(VitquantError, match="has 0 bytes"):
        runtime.load(tmp_path / "damaged")


def test_a_file_that_is_no_safetensors_is_named(int8: Path, tmp_path: Path) -> None:
    def fill(directory: Path) -> dict:
        shutil.copyfile(int8 / "network.json", directory / "network.json")
        files.write_json(directory / "model.safetensors", {})
        return {}

    artifact.write(tmp_path / "other", artifact.open_artifact(int8).spec, fill)
    with pytest.raises(VitquantError, match="model.safetensors is no safetensors file"):
        runtime.load(tmp_path / "other")
