import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PREPROCESSING, without_home

from vitquant import artifact, files
from vitquant.data import folder, prepare
from vitquant.errors import VitquantError
from vitquant.predictor import write_weights
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


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, said in (("pipe", "is neither a file nor a folder"), ("folder", "is a folder: name a file")):
        with pytest.raises(VitquantError, match=said), files.atomic(tmp_path / name) as partial:
            partial.touch()
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 2


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
        write_weights(directory, {"weight": torch.from_numpy(np.ones(1_000_000, np.float32))})
        return {}

    with pytest.raises(VitquantError, match=r"model.safetensors cannot be written: .*No space left"):
        artifact.write(small_disk / "artifact", spec, fill)
    assert list(small_disk.iterdir()) == []


def test_json_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "value.json").write_bytes(b'"gr\xfcn"')
    with pytest.raises(VitquantError, match="is not valid JSON"):
        files.read_json(tmp_path / "value.json")


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfcn")
    assert files.as_text(name) == "gr\\xfcn"
    assert files.as_text("grün") == "grün"
    files.write_json(tmp_path / "value.json", [name, "grün"])
    assert files.read_json(tmp_path / "value.json") == [name, "grün"]


def test_a_user_without_a_home_directory_is_asked_for_a_cache() -> None:
    result = without_home("from vitquant import files; files.cache_root()", "")
    assert result.stderr.endswith("user 0 has no home directory for the cache: set VITQUANT_CACHE to a folder\n")


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "file"))
    with pytest.raises(VitquantError, match="file cannot be made .File exists.: set VITQUANT_CACHE to a folder"):
        files.cache_root()


@pytest.mark.parametrize(
    ("content", "says"), [("[" * 100_000, "recursion depth exceeded"), ("[" + "9" * 5000 + "]", "4300 digits")]
)
def test_json_that_is_too_deep_or_of_too_long_numbers(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "value.json").write_text(content)
    with pytest.raises(VitquantError, match=f"value.json is not valid JSON .*{says}.*: delete it and run") as error:
        files.read_json(tmp_path / "value.json")
    assert "\n" not in str(error.value)


def test_a_cache_that_is_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "loop"))
    with pytest.raises(VitquantError, match="VITQUANT_CACHE=.*loop: .*: set VITQUANT_CACHE to a folder"):
        files.cache_root()
