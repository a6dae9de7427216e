"""The files that a study names: never where DVC deletes, and never changed without a word."""

import os
from pathlib import Path

import pytest
from conftest import write_images

from vitquant import inputs
from vitquant.errors import VitquantError
from vitquant.params import FileModel, Params

PIPELINE = Path(__file__).parents[1] / "dvc.yaml"


@pytest.fixture
def with_weights(params: Params, tmp_path: Path) -> Params:
    """A study of a weights file, and of images of its own."""
    (tmp_path / "weights.pth").write_bytes(b"weights")
    data = params.data.model_copy(update={"path": str(write_images(tmp_path / "images", 2))})
    model = FileModel(source="file", name="test_vit", path=str(tmp_path / "weights.pth"))
    return params.model_copy(update={"data": data, "model": model})


def test_what_a_stage_writes_is_refused(with_weights: Params, tmp_path: Path) -> None:
    pipeline = tmp_path / "dvc.yaml"
    pipeline.write_bytes(PIPELINE.read_bytes())
    inputs.check(with_weights, pipeline)
    places = {
        "models/raw/w.pth": "lies in models/raw",
        "models/recipes/x/w.pth": "lies in models/recipes",
        "results/figures": "is results/figures",
        "results/summary.json": "is results/summary.json",
        "models": "holds models/raw",
        ".": "holds results/machine.json",
    }
    for place, message in places.items():
        model = with_weights.model.model_copy(update={"path": str(tmp_path / place)})
        with pytest.raises(VitquantError, match=rf"model.path: .* {message}, which DVC deletes"):
            inputs.check(with_weights.model_copy(update={"model": model}), pipeline)


def test_links_hide_nothing(with_weights: Params, tmp_path: Path) -> None:
    pipeline = tmp_path / "repository/dvc.yaml"
    pipeline.parent.mkdir()
    pipeline.write_bytes(PIPELINE.read_bytes())
    (pipeline.parent / "data").symlink_to(tmp_path / "disk")  # as where the repository's data lie on another disk
    (tmp_path / "disk/raw").mkdir(parents=True)
    data = with_weights.data.model_copy(update={"path": str(tmp_path / "disk/raw")})
    with pytest.raises(VitquantError, match=r"data.path: .* is data/raw, which DVC deletes"):
        inputs.check(with_weights.model_copy(update={"data": data}), pipeline)


@pytest.mark.parametrize("cheap", [True, False])
def test_the_fingerprint_changes_with_the_files(
    with_weights: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap: bool
) -> None:
    if not cheap:
        monkeypatch.setattr(inputs, "CHEAP", 0)
    before = inputs.fingerprint(with_weights)
    assert inputs.fingerprint(with_weights) == before
    assert before["data.path"]["files"] == len(list((tmp_path / "images").rglob("*.png")))
    image = next((tmp_path / "images").rglob("*.png"))
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    touched = inputs.fingerprint(with_weights)
    assert (touched == before) == cheap  # where contents are read, times do not matter
    image.write_bytes(image.read_bytes()[:-1] + b"?")
    changed = inputs.fingerprint(with_weights)
    assert changed["data.path"]["digest"] not in (before["data.path"]["digest"], touched["data.path"]["digest"])
    assert changed["model.path"] == before["model.path"]
    (tmp_path / "weights.pth").write_bytes(b"others")
    assert inputs.fingerprint(with_weights)["model.path"] != before["model.path"]


def test_what_is_not_there_is_named(with_weights: Params, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").unlink()
    with pytest.raises(VitquantError, match=r"model.path: .*weights.pth is not a file: name the one to use"):
        inputs.fingerprint(with_weights)


def test_a_study_of_downloads_has_none(params: Params) -> None:
    assert inputs.paths(params).keys() == {"data.path"}


@pytest.mark.parametrize("path", ["loop", "a\0b", "\ud800"])
def test_a_path_that_leads_nowhere(with_weights: Params, tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    model = with_weights.model.model_copy(update={"path": str(tmp_path / path)})
    with pytest.raises(VitquantError, match=r"model.path: .* leads nowhere .*: name another"):
        inputs.check(with_weights.model_copy(update={"model": model}), PIPELINE)


def test_a_device_is_not_read(with_weights: Params) -> None:
    model = with_weights.model.model_copy(update={"path": "/dev/zero"})
    with pytest.raises(VitquantError, match="model.path: /dev/zero is not a file: name the one to use"):
        inputs.fingerprint(with_weights.model_copy(update={"model": model}))
