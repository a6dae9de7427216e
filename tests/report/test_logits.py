"""Predictions are read as if anybody had written them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import mini_study

from vitquant.errors import VitquantError
from vitquant.params import Params
from vitquant.report import metrics


def read(folder: Path) -> np.ndarray:
    study = mini_study(folder)
    study["recipes"].pop("dynamic-int8")
    return metrics.read_logits(Params.model_validate(study), folder)["fp32"]


def test_predictions_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "fp32.npz", logits=np.ones((2, 3), np.float32))
    assert np.array_equal(read(tmp_path), np.ones((2, 3)))


def test_predictions_that_grow_when_they_are_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "fp32.npz", logits=np.zeros((1000, 1000), np.float32))
    with pytest.raises(VitquantError, match=r"fp32.npz cannot be read \(logits.npy has 4000128 bytes unpacked, more"):
        read(tmp_path)


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000, 1000000), }", "[" * 5000]
)
def test_an_array_that_says_it_is_larger(tmp_path: Path, header: str) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "fp32.npz", "w") as archive:
        archive.writestr("logits.npy", content + bytes(24))
    with pytest.raises(VitquantError, match="fp32.npz cannot be read .*dvc repro") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"\x93NUMPY\x01\x00 half", b"half"])
def test_broken_predictions(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fp32.npz").write_bytes(content)
    with pytest.raises(VitquantError, match="fp32.npz cannot be read"):
        read(tmp_path)


def test_an_array_alone_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "fp32.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(VitquantError, match="fp32.npz cannot be read"):
        read(tmp_path)
