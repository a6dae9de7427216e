"""results/cuda/<device>.json and .npz: a study that was measured, beside those that are there.

Running a study again replaces that study on that device, and nothing else.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitquant.results import form, predictions
from vitquant.results.gpu import Gpu, GpuStudy, file_of, study_of

AWAY = "move it away and measure again"


def check(folder: Path, device: str) -> None:
    """See that the device's file, if there is one, can take another study.

    Raises:
        VitquantError: it is of another version, or damaged.
    """
    path = file_of(folder, device)
    if path.exists():
        form.read(path, Gpu, AWAY)


def add(folder: Path, quantize_dynamic: str, study: GpuStudy, arrays: dict[str, NDArray[np.generic]]) -> Path:
    """Write a study's result and predictions into the device's files; other studies there stay as they are.

    Args:
        arrays: of the study, by the names that `results.gpu` gives them.

    Returns:
        The JSON file.
    """
    device = study.environment.gpu
    path = file_of(folder, device)
    studies = form.read(path, Gpu, AWAY).studies if path.exists() else {}
    stored, name = path.with_suffix(".npz"), study.study.name
    there = predictions.read(stored) if stored.exists() else {}
    kept = {key: array for key, array in there.items() if study_of(key) != name}
    predictions.write(stored, kept | arrays)
    form.write(path, Gpu(device=device, quantize_dynamic=quantize_dynamic, studies={**studies, name: study}))
    return path
