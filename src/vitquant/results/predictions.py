"""Predictions, as arrays in NumPy's .npz beside the results; its members are stored, not compressed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant import files, zips
from vitquant.errors import VitquantError


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by their names."""
    with files.atomic(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file by their names.

    Raises:
        VitquantError: it is missing or damaged, or holds what is no array.
    """
    try:
        with np.load(path) as content:
            for member in content.zip.infolist():
                zips.check(member, path.stat().st_size)
            return {name: np.asarray(content[name]) for name in content.files}
    except Exception as error:  # NumPy, zipfile and Python's parser, which reads the header, raise any
        raise VitquantError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}): run `dvc repro`") from None


def cosine(class_tokens: NDArray[np.float32], baseline: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each image's class token to the baseline's, float32 (N,); both are float32 (N, D)."""
    ours, theirs = class_tokens.astype(np.float64), baseline.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return np.asarray((ours * theirs).sum(axis=1) / np.maximum(lengths, 1e-30), dtype=np.float32)


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's values in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
