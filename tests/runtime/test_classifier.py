"""An artifact without PyTorch: the same logits to the bit, and one line for what cannot be run."""

import json
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


@pytest.mark.parametrize(
    "bad",
    [
        [],
        np.zeros((0, 64, 64, 3), np.uint8),
        "cell.png",
        np.zeros((1, 9, 9, 3), np.uint8),
        np.array(5),
        np.uint8(5),
        [1],
        ["cell\0.png"],
    ],
)
def test_other_images_are_refused(int8: Path, bad: object) -> None:
    classifier = runtime.load(int8)
    for take in (classifier, classifier.forward):
        with pytest.raises(VitquantError) as error:
            take(bad)  # type: ignore[operator]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**6, 2.5])
def test_threads_that_cannot_be(int8: Path, threads: int) -> None:
    with pytest.raises(VitquantError, match=f"threads must be a whole number from 1 to 1024, not {threads}"):
        runtime.load(int8, threads)
    classifier = runtime.load(int8, 1)
    classifier.threads = threads
    with pytest.raises(VitquantError, match="threads must be a whole number from 1 to 1024"):
        classifier(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_path_that_is_none(int8: Path) -> None:
    with pytest.raises(VitquantError, match="is not an artifact directory"):
        runtime.load(f"{int8}\0")
    with pytest.raises(VitquantError, match=r"'cell\\x00.png' is no path \(embedded null byte\): name an image file"):
        runtime.load(int8)(["cell\0.png"])


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


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("classes", ["abacus"], "classes: 1, but network.json says 6"),
        ("crop", 65, "preprocessing.crop: 65, but network.json says 64"),
        ("crop", 0, "preprocessing.crop: Input should be greater than 0 (got 0)"),
        ("std", [0.5, 0, 0.5], "preprocessing.std.1: Input should be greater than 0.000001 (got 0)"),
        ("std", [0.5, 1e-50, 0.5], "preprocessing.std.1: Input should be greater than 0.000001 (got 1e-50)"),
        ("std", [0.5, 0.5], "preprocessing.std: List should have at least 3 items after validation, not 2"),
        ("std", [0.5, 0.5, float("inf")], "preprocessing.std.2: Input should be less than 1000000 (got inf)"),
        ("mean", [float("nan"), 0.5, 0.5], "preprocessing.mean.0: Input should be"),
        ("mean", [0.5] * 4, "preprocessing.mean: List should have at most 3 items after validation, not 4"),
    ],
)
def test_a_recipe_json_that_does_not_fit_its_network(
    int8: Path, tmp_path: Path, key: str, value: object, said: str
) -> None:
    file = Path(shutil.copytree(int8, tmp_path / "int8")) / "recipe.json"
    content = json.loads(file.read_text())
    (content if key in content else content["preprocessing"])[key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(VitquantError) as error:
        runtime.load(file.parent)
    message = str(error.value)
    assert message.startswith(f"{file}: {said}")
    assert message.endswith(": make it again with `dvc repro`, or vitquant.quantize")
    assert "\n" not in message


def test_a_file_that_is_no_safetensors_is_named(int8: Path, tmp_path: Path) -> None:
    def fill(directory: Path) -> dict:
        shutil.copyfile(int8 / "network.json", directory / "network.json")
        files.write_json(directory / "model.safetensors", {})
        return {}

    artifact.write(tmp_path / "other", artifact.open_artifact(int8).spec, fill)
    with pytest.raises(VitquantError, match="model.safetensors is no safetensors file"):
        runtime.load(tmp_path / "other")
