"""What the FP32 model made of images of the study: what served images are held against, to see whether they changed.

They are of the val split, and not those that calibrate: a head that was fitted on the train split is surer of those
than of images that it has not seen, so that images like the study's would seem to differ from them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vitquant.artifact import Artifact
from vitquant.errors import MAKE_AGAIN, VitquantError

FILE = "reference.safetensors"
LEAST, MOST = 64, 256  # images, where the split has so many
SEED = 0


@dataclass(frozen=True)
class Reference:
    """Of n images."""

    embedding: NDArray[np.float32]
    """(n, D): what the classifier reads of the backbone, of most ViTs the class token."""
    logits: NDArray[np.float32]
    """(n, C)."""


def rows(count: int) -> NDArray[np.int64]:
    """Which of `count` images are kept, ascending: a quarter, but LEAST to MOST, drawn by SEED."""
    kept = min(count, max(LEAST, min(MOST, count // 4)))
    return np.sort(np.random.default_rng(SEED).choice(count, kept, replace=False))


def write(directory: Path, reference: Reference) -> None:
    """Keep it in an artifact's directory that is being made."""
    try:
        save_file({"embedding": reference.embedding, "logits": reference.logits}, directory / FILE)
    except SafetensorError as error:
        raise VitquantError(f"{directory / FILE} cannot be written: {error}") from None


def read(artifact: Artifact) -> Reference | None:
    """That of an opened artifact; None where it has none.

    Raises:
        VitquantError: it is of another form.
    """
    if FILE not in artifact.spec.files:
        return None
    file = artifact.path / FILE
    try:
        found = load_file(file)
        reference = Reference(found["embedding"], found["logits"])
    except (SafetensorError, KeyError) as error:
        raise VitquantError(f"{file} is no reference ({error}): {MAKE_AGAIN}") from None
    return reference
