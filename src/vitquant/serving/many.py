"""Predicting many image files: on all cores, or the GPU; what is no image is told of and skipped."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitquant import cpu
from vitquant.data import folder
from vitquant.errors import VitquantError
from vitquant.images import UndecodableError
from vitquant.serving.model import Model, probabilities

AHEAD = 4  # tasks under way for each core


@dataclass(frozen=True)
class Prediction:
    """What the model says of an image file."""

    file: Path
    probabilities: NDArray[np.float32] | None
    """By class; None where there are none, and `problem` says why."""
    problem: str = ""


def find(places: Sequence[Path]) -> list[Path]:
    """Files as they are, and of folders what has an image's extension, at any depth; each once, in order.

    Raises:
        VitquantError: a place is not there, or there is no image.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.exists():
            raise VitquantError(f"{place} is neither a file nor a folder: check the path")
        found.update(dict.fromkeys(folder.images(place) if place.is_dir() else [place]))
    if not found:
        raise VitquantError(f"there is no image file in {', '.join(map(str, places))}: name files, or other folders")
    return list(found)


def predict(model: Model, threads: ThreadPoolExecutor, images: Sequence[Path]) -> Iterator[Prediction]:
    """Predict image files, in order; a few are under way at a time, so that few are in memory.

    Args:
        threads: that `model` may be called from.

    Raises:
        VitquantError: the model's logits are not finite, so that its weights are broken.
    """
    under_way: deque[Future[list[Prediction]]] = deque()
    try:
        for start in range(0, len(images), model.batch):
            under_way.append(threads.submit(_predict, model, images[start : start + model.batch]))
            if len(under_way) >= AHEAD * cpu.cores():
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


def _predict(model: Model, images: Sequence[Path]) -> list[Prediction]:
    pixels, problems = {}, {}
    for file in images:
        try:
            pixels[file] = model.artifact.spec.preprocessing.pixels(file)
        except UndecodableError as error:
            problems[file] = str(error)
        except OSError as error:
            problems[file] = f"{file}: {error.strerror}"
    found: dict[Path, NDArray[np.float32]] = {}
    if pixels:
        logits = model.logits(np.stack(list(pixels.values())))
        model.artifact.check_outputs(logits)
        found = dict(zip(pixels, probabilities(logits), strict=True))
    return [Prediction(file, found.get(file), problems.get(file, "")) for file in images]
