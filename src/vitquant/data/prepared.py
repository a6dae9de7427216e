"""Reading what `prepare` wrote.

A prepared directory holds, for each split, `<split>_images.npy` (uint8, (N, crop, crop, 3), RGB) and
`<split>_labels.npy` (int64, (N,)), and `classes.json`, `preprocessing.json` and `manifest.csv` (path, class,
split, sha256); `files/` has a few image files of the val split as they came, undecoded.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitquant import files
from vitquant.data.samples import Split
from vitquant.errors import VitquantError
from vitquant.images import Preprocessing
from vitquant.params import Calibration


class Prepared:
    """A prepared directory, opened for reading; images stay on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.classes: list[str] = files.read_json(path / "classes.json")
        self.preprocessing = Preprocessing.model_validate(files.read_json(path / "preprocessing.json"))

    def images(self, split: Split) -> NDArray[np.uint8]:
        """The split's images, uint8 (N, H, W, 3), memory-mapped."""
        images: NDArray[np.uint8] = self._array(f"{split}_images.npy", "r")
        return images

    def files(self) -> list[bytes]:
        """The content of a few image files of the val split, undecoded.

        Raises:
            VitquantError: there are none.
        """
        found = [file.read_bytes() for file in sorted((self.path / "files").glob("*"))]
        if not found:
            raise VitquantError(f"{self.path / 'files'} holds no image file: run `dvc repro -f prepare`")
        return found

    def calibration(self, params: Calibration) -> NDArray[np.uint8]:
        """Images drawn from the train split, uint8 (N, H, W, 3): the same ones for every recipe.

        Raises:
            VitquantError: the train split has fewer images than are wanted.
        """
        train = self.images("train")
        if params.images > len(train):
            raise VitquantError(f"calibration.images: {params.images} are wanted, the train split has {len(train)}")
        rows = np.random.default_rng(params.seed).choice(len(train), params.images, replace=False)
        return np.array(train[np.sort(rows)])

    def labels(self, split: Split) -> NDArray[np.int64]:
        """The split's class indices, int64 (N,)."""
        labels: NDArray[np.int64] = self._array(f"{split}_labels.npy", None)
        return labels

    def part(self, one_of: int) -> NDArray[np.int64]:
        """Rows of the val split, ascending: one of so many images, class by class."""
        by_class = np.argsort(self.labels("val"), kind="stable")
        return np.sort(by_class[::one_of])

    def _array(self, name: str, mode: Literal["r"] | None) -> Any:
        file = self.path / name
        try:
            return np.load(file, mmap_mode=mode)
        except (OSError, ValueError, EOFError) as error:
            raise VitquantError(f"{file} cannot be read ({error}): run `dvc repro -f prepare`") from None
