"""A bundle runs with NumPy alone, gives the recipe's logits, and says in one line why it does not run."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from vitquant import recipes
from vitquant.artifact import open_artifact
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.params import Recipe
from vitquant.runtime import bundle, targets

FILES = ("bundle.json", "library.so", "network.bin", "run.py")


@pytest.fixture(scope="module")
def int8(fp32: Path, calibration: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "int8"
    recipes.build("int8", Recipe(method="vitquant_int8"), fp32, path, calibration)
    return path


@pytest.fixture(scope="module")
def bundled(int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    try:
        bundle.write(open_artifact(int8), path)
    except UnsupportedError as reason:
        pytest.skip(str(reason))
    return path


def run(folder: Path, *arguments: str | Path, path: str = "") -> tuple[int, str, str]:
    """`python run.py` elsewhere, with no compiler to be found."""
    command = [sys.executable, "-I", folder / "run.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": path}, cwd="/")
    return done.returncode, done.stdout, done.stderr


def test_it_gives_what_the_recipe_gives(int8: Path, bundled: Path, prepared: Prepared, tmp_path: Path) -> None:
    moved, images = tmp_path / "elsewhere", np.array(prepared.images("val"))
    shutil.copytree(bundled, moved)
    np.save(tmp_path / "images.npy", images)
    program = (
        f"import sys; sys.modules['torch'] = sys.modules['vitquant'] = None; sys.path.insert(0, {str(moved)!r})\n"
        f"import numpy as np, run; images = np.load({str(tmp_path / 'images.npy')!r})\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, [run.load(threads)(images) for threads in (1, 3)])"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PATH": ""})
    logits = recipes.load(int8)(images)
    for found in np.load(tmp_path / "logits.npy"):
        assert np.allclose(found, logits, rtol=0, atol=1e-4)  # another compiler target may fuse other products
    code, out, err = run(moved, tmp_path / "images.npy")
    assert (code, err) == (0, "")
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names == [prepared.classes[index] for index in np.load(tmp_path / "logits.npy")[0].argmax(axis=1)]


@pytest.mark.parametrize("name", ["network.bin", "library.so", "bundle.json", "SHA256SUMS"])
def test_what_has_changed_is_refused(bundled: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(bundled, tmp_path / "b")
    with (tmp_path / f"b/{name}").open("r+b") as file:
        file.write(b"abacus")
    np.save(tmp_path / "images.npy", np.zeros((1, 64, 64, 3), np.uint8))
    code, out, err = run(tmp_path / "b", tmp_path / "images.npy")
    assert (code, out) == (1, "")
    changed = tmp_path / "b" / (name if name != "SHA256SUMS" else "bundle.json")  # the first that it lists
    assert err == f"{changed} has changed since it was made: copy the bundle again\n"


def test_another_cpu_is_refused(bundled: Path, tmp_path: Path) -> None:
    shutil.copytree(bundled, tmp_path / "b")
    content = json.loads((tmp_path / "b/bundle.json").read_text())
    content["needs"].append("beads")
    (tmp_path / "b/bundle.json").write_text(json.dumps(content))
    digest = hashlib.sha256((tmp_path / "b/bundle.json").read_bytes()).hexdigest()
    sums = (tmp_path / "b/SHA256SUMS").read_text().splitlines()
    (tmp_path / "b/SHA256SUMS").write_text("\n".join([f"{digest}  bundle.json", *sums[1:]]))
    np.save(tmp_path / "images.npy", np.zeros((1, 64, 64, 3), np.uint8))
    code, _, err = run(tmp_path / "b", tmp_path / "images.npy")
    assert (code, err) == (1, "this CPU lacks beads: make the bundle on one like it\n")


@pytest.mark.parametrize("arguments", [[], ["--halp"], ["/no/such/file"], [__file__], [os.devnull], ["a.npy", "b.npy"]])
def test_other_files_are_one_line(bundled: Path, arguments: list[str]) -> None:
    code, out, err = run(bundled, *arguments)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_no_error(bundled: Path, option: str) -> None:
    code, out, err = run(bundled, option)
    assert (code, err) == (0, "")
    assert "python run.py images.npy" in out


def test_images_of_another_shape_are_one_line(bundled: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 9, 9, 3), np.uint8))
    code, _, err = run(bundled, tmp_path / "images.npy")
    assert (code, err) == (1, "give uint8 images of shape (N, 64, 64, 3), not uint8 (1, 9, 9, 3)\n")


@pytest.mark.parametrize("threads", [0, -1, 10**6, 2.5])
def test_threads_that_cannot_be(bundled: Path, threads: float) -> None:
    program = f"import sys; sys.path.insert(0, {str(bundled)!r}); import run; run.load({threads})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"ValueError: threads must be a whole number from 1 to 1024, not {threads}" in done.stderr


def test_the_command_makes_a_folder_and_deletes_nothing(int8: Path, bundled: Path, fp32: Path, tmp_path: Path) -> None:
    out = tmp_path / "o u t"
    done = CliRunner().invoke(main, ["bundle", str(int8), str(out)])
    assert (done.exit_code, done.output) == (0, f"{out}: python '{out / 'run.py'}' images.npy\n")
    assert {file.name for file in out.iterdir()} == {*FILES, "SHA256SUMS"}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], check=True, cwd=out)
    (tmp_path / "link").symlink_to("nowhere")
    for there in (out, tmp_path / "link"):
        done = CliRunner().invoke(main, ["bundle", str(int8), str(there)])
        assert done.exit_code == 1
        assert "is there already: name a new folder, or delete it" in done.output
    with pytest.raises(VitquantError, match="lies in the artifact"):
        bundle.write(open_artifact(int8), int8 / "b")
    with pytest.raises(VitquantError, match="only vitquant_int8 runs without PyTorch"):
        bundle.write(open_artifact(fp32), tmp_path / "b")


def test_classes_that_the_network_does_not_have(int8: Path, bundled: Path, tmp_path: Path) -> None:
    shutil.copytree(int8, tmp_path / "int8")
    content = json.loads((tmp_path / "int8/recipe.json").read_text())
    content["classes"].append("abacus")
    (tmp_path / "int8/recipe.json").write_text(json.dumps(content))
    with pytest.raises(VitquantError, match=r"recipe.json: classes: 7, but network.json says 6"):
        bundle.write(open_artifact(tmp_path / "int8"), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_cpu_that_no_bundle_is_for_is_named(int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    monkeypatch.setattr(targets, "CPUINFO", tmp_path / "cpuinfo")
    with pytest.raises(UnsupportedError, match="is for x86-64 CPUs with AVX2"):
        bundle.write(open_artifact(int8), tmp_path / "b")
    assert not (tmp_path / "b").exists()
