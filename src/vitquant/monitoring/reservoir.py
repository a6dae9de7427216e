"""A uniform sample, of bounded size, of all images that were served: Vitter's algorithm R.

The first `keep` images fill the places 0 … keep - 1; image number t after them takes a random place with the
probability keep / t. At any time each image so far is then in the sample with the same probability (Vitter 1985,
Random sampling with a reservoir, ACM TOMS 11:37). A place is a file, which is replaced whole. How many images there
were is in SPEC_FILE: whoever deletes that, or the folder, begins a new sample.
"""

import fcntl
import os
import random
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from vitquant import files
from vitquant.errors import VitquantError
from vitquant.results.form import Form
from vitquant.validation import describe

SPEC_FILE = "reservoir.json"
MEND = "delete it, and a new sample begins"


class Spec(Form):
    """The content of reservoir.json."""

    keep: PositiveInt
    """Images at most."""
    side: PositiveInt
    """Of the images, pixels."""
    seen: NonNegativeInt
    """Images that were served while it was kept. The last few may be missing after a crash."""


class Reservoir:
    """The sample in a folder, which no other process adds to meanwhile.

    `draw` takes no time that counts, and `put` may be called from another thread.

    Args:
        side: of the images, pixels.
        seed: of the drawing; None for chance.

    Raises:
        VitquantError: another process keeps a sample there, or it holds one of another size or of other images.
        OSError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path, keep: int, side: int, seed: int | None = None) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._keep, self._side = folder, keep, side
        self._random, self._counting, self._noted = random.Random(seed), threading.Lock(), False
        self._lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.seen = self._before()
        except BlockingIOError:
            os.close(self._lock)
            raise VitquantError(f"{folder} is kept by a server that runs: give --keep-images another folder") from None
        except VitquantError:
            os.close(self._lock)
            raise

    def _before(self) -> int:
        path = self._folder / SPEC_FILE
        if not path.exists():
            if place := next(iter(_places(self._folder)), None):
                raise VitquantError(f"{place} is there without {SPEC_FILE}: give --keep-images an empty folder")
            return 0
        spec = _spec(path)
        if (spec.keep, spec.side) != (self._keep, self._side):
            raise VitquantError(
                f"{self._folder} is a sample of {spec.keep} images of {spec.side} pixels, not of {self._keep} of "
                f"{self._side}: give the same --keep, or another --keep-images"
            )
        self._noted = True
        return spec.seen

    def draw(self) -> int | None:
        """Count an image: its place in the sample, or None where it is left out."""
        with self._counting:
            self.seen += 1
            place = self.seen - 1 if self.seen <= self._keep else self._random.randrange(self.seen)
        return place if place < self._keep else None

    def put(self, place: int, pixels: NDArray[np.uint8]) -> None:
        """Keep an image, uint8 (side, side, 3), in its place; whole, or what was there stays.

        Raises:
            OSError: it cannot be written, as on a full disk.
        """
        if self._noted and not (self._folder / SPEC_FILE).exists():  # somebody has deleted it
            with self._counting:
                self.seen, place = 1, 0
        with files.atomic(self._folder / f"{place:06}.png") as partial:
            Image.fromarray(pixels).save(partial, "PNG", compress_level=1)
            partial.chmod(0o600)
        self._note()

    def _note(self) -> None:
        spec = Spec(keep=self._keep, side=self._side, seen=self.seen)
        files.write_json(self._folder / SPEC_FILE, spec.model_dump())
        self._noted = True

    def close(self) -> None:
        """Note how many images there were, and let others keep it.

        Raises:
            OSError: it cannot be noted.
        """
        try:
            if (self._folder / SPEC_FILE).exists():
                self._note()
        finally:
            os.close(self._lock)


def read(folder: Path) -> NDArray[np.uint8]:
    """The images of a sample, uint8 (N, side, side, 3), by their places; none, (0, side, side, 3).

    Raises:
        VitquantError: it is no sample, or one of its files is no such image.
    """
    path = folder / SPEC_FILE
    if not path.exists():
        raise VitquantError(f"{folder} has no sample of images: name that of `vitquant serve --keep-images`")
    side = _spec(path).side
    found = np.empty((len(places := _places(folder)), side, side, 3), np.uint8)
    for number, place in enumerate(places):
        try:
            with Image.open(place, formats=["PNG"]) as image:
                found[number] = np.asarray(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VitquantError(f"{place} is no image of {side} × {side} pixels ({error}): delete it") from None
    return found


def _spec(path: Path) -> Spec:
    content = files.read_json(path, MEND)
    try:
        return Spec.model_validate(content)
    except ValidationError as error:
        raise VitquantError(f"{path}: {describe(error, content)}: {MEND}") from None


def _places(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.png"))
