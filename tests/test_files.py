import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PREPROCESSING

from vitquant import artifact, files
from vitquant.data import folder, prepare
from vitquant.errors import VitquantError
from vitquant.traits import FP32


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with files.atomic(tmp_path / "folder" / "value") as partial:
        partial.write_text("new")
        assert not (tmp_path / "folder" / "value").exists()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["value"]


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with files.atomic(tmp_path / "out") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("old")
    with pytest.raises(KeyError), files.atomic(tmp_path / "value") as partial:
        partial.write_text("half")
        raise KeyError
    assert (tmp_path / "value").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").touch()
    with files.atomic(tmp_path / "out") as partial:
        partial.mkdir()
    assert list((tmp_path / "out").iterdir()) == []
    assert not partial.exists()


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "value.json", {"value": float("nan")})
    assert not (tmp_path / "value.json").exists()


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="is missing"):
        files.read_json(tmp_path / "value.json")
    (tmp_path / "value.json").write_text('{"half":')
    with pytest.raises(VitquantError, match="is not valid JSON"):
        files.read_json(tmp_path / "value.json")


def test_a_full_disk_while_writing_json(small_disk: Path) -> None:
    files.write_json(small_disk / "value.json", "old")
    with pytest.raises(OSError, match="No space left"):
        files.write_json(small_disk / "value.json", "x" * 1_000_000)
    assert files.read_json(small_disk / "value.json") == "old"
    assert len(list(small_disk.iterdir())) == 1


def test_a_full_disk_while_preparing(small_disk: Path, images: Path, params) -> None:
    with pytest.raises(OSError, match="No space left"):
        prepare.prepare(
            folder.samples(params.data, images),
            PREPROCESSING,
            params.data,
            small_disk / "processed",
        )
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_while_writing_weights(small_disk: Path) -> None:
    spec = artifact.Spec(
        recipe="r",
        method="fp32",
        options={},
        traits=FP32,
        architecture="test_vit",
        preprocessing=artifact.Preprocessing(resize=1, crop=1, interpolation="bicubic", mean=[0.0] * 3, std=[1.0] * 3),
        classes=["a", "b"],
    )

    def fill(directory: Path) -> dict:
        artifact.write_weights(directory, {"weight": torch.from_numpy(np.ones(1_000_000, np.float32))})
        return {}

    with pytest.raises(VitquantError, match=r"model.safetensors cannot be written: .*No space left"):
        artifact.write(small_disk / "artifact", spec, fill)
    assert list(small_disk.iterdir()) == []
