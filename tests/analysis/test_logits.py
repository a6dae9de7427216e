"""Predictions are read as if anybody had written them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from vitquant.errors import VitquantError
from vitquant.results import predictions


def read(folder: Path) -> np.ndarray:
    return predictions.read(folder / "fp32.npz")["logits"]


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


def test_an_object_is_no_array(tmp_path: Path) -> None:
    """Unpickling it would run code."""
    np.savez(tmp_path / "fp32.npz", logits=np.array([{}], dtype=object))
    with pytest.raises(VitquantError, match="fp32.npz cannot be read .*allow_pickle"):
        read(tmp_path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    arrays = {"logits": np.arange(6, dtype=np.float32).reshape(2, 3), "a/b//labels": np.arange(2)}
    predictions.write(tmp_path / "fp32.npz", arrays)
    found = predictions.read(tmp_path / "fp32.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    predictions.write(tmp_path / "none.npz", {})
    assert predictions.read(tmp_path / "none.npz") == {}


def test_a_digest_is_of_the_values_in_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert predictions.digest(np.asfortranarray(array)) == predictions.digest(array)
    assert predictions.digest(array) != predictions.digest(array + 1)


def test_a_token_of_zeros_has_no_direction() -> None:
    tokens = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    assert predictions.cosine(tokens, np.array([[1.0, 0.0], [1.0, 1.0]], np.float32)) == pytest.approx([0, 0.5**0.5])
