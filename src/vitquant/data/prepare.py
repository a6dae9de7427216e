"""Images decoded, resized, cropped and split once, into arrays that later stages memory-map."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from vitquant import files
from vitquant.cpu import cores
from vitquant.data.samples import Sample, Split, settle
from vitquant.errors import VitquantError
from vitquant.images import Preprocessing, UndecodableError, opened
from vitquant.params import Data, TinyImagenetData

KEPT = 16  # image files of the val split
CHUNK = 32  # images a thread takes at once
SMALLEST_CLASS = 4  # images: so that train, its held-out part and val can each have one
SMALLEST: dict[Split, int] = {"train": 2, "val": 1}  # images of a class in a split


def prepare(samples: Sequence[Sample], preprocessing: Preprocessing, params: Data, destination: Path) -> None:
    """Decode, resize, crop and split `samples`, and write the prepared directory whole.

    Raises:
        VitquantError: an image does not decode (unless `params.on_undecodable` is skip), or a class is
            too small to be split.
        OSError: the disk is full.
    """
    splits = divide(samples, params)
    with files.atomic(destination) as partial:
        partial.mkdir()
        images = {
            split: _Rows(partial / f"{split}_images.npy", len(part), preprocessing.crop)
            for split, part in splits.items()
        }
        jobs = [(sample, images[split], row) for split, part in splits.items() for row, sample in enumerate(part)]
        digests = _decode_all(jobs, preprocessing, params)
        manifest = pd.DataFrame(
            {
                "path": [sample.name for sample, _, _ in jobs],
                "class": [sample.label for sample, _, _ in jobs],
                "split": [split for split, part in splits.items() for _ in part],
                "sha256": digests,
            }
        )
        decoded = manifest["sha256"].notna()
        _check_splits({part: manifest.loc[(manifest["split"] == part) & decoded, "class"] for part in splits},
                      set(manifest["class"]), " that decode")  # fmt: skip
        _warn_of_copies(manifest[decoded])
        classes = sorted(manifest["class"].unique())
        for split in splits:
            rows = manifest["split"] == split
            images[split].close(decoded[rows].to_numpy())
            labels = manifest.loc[rows & decoded, "class"].map(classes.index)
            np.save(partial / f"{split}_labels.npy", labels.to_numpy(np.int64))
        _keep_files(partial / "files", splits["val"], manifest.loc[(manifest["split"] == "val") & decoded, "path"])
        files.write_json(partial / "classes.json", classes)
        files.write_json(partial / "preprocessing.json", preprocessing.model_dump())
        manifest[decoded].to_csv(partial / "manifest.csv", index=False)


def _keep_files(folder: Path, samples: Sequence[Sample], decoded: pd.Series) -> None:
    """Copy a few of the files that were decoded, from all over the split: predicting from a file is timed on them."""
    folder.mkdir()
    names = set(decoded)
    whole = [sample for sample in samples if sample.name in names]
    step = max(1, len(whole) // KEPT)
    for index, sample in enumerate(whole[::step][:KEPT]):
        (folder / f"{index:02}").write_bytes(sample.read())


def _check_class_sizes(samples: Sequence[Sample]) -> None:
    counts = Counter(sample.label for sample in samples)
    if len(counts) < 2:  # noqa: PLR2004
        raise VitquantError(f"the data has {len(counts)} class(es): a classifier needs at least two")
    small = [f"{label} ({count})" for label, count in sorted(counts.items()) if count < SMALLEST_CLASS]
    if small:
        raise VitquantError(
            f"too few images to split into train, held-out and validation (each class needs {SMALLEST_CLASS}): "
            f"{', '.join(small)}: add images or remove the class"
        )


def _check_splits(labels: Mapping[Split, Iterable[str]], classes: Collection[str], which: str = "") -> None:
    """See that each split has enough of every class, by the class of each of its images."""
    for part, own in labels.items():
        counts, least = Counter(own), SMALLEST[part]
        small = [f"{label} ({counts[label]})" for label in sorted(classes) if counts[label] < least]
        if small:
            raise VitquantError(
                f"the {part} split has too few images{which} (each class needs {least}): {', '.join(small)}: "
                "add images, change data.val_fraction, or remove the class"
            )


def _warn_of_copies(manifest: pd.DataFrame) -> None:
    """Say how many validation images are in the train split as well, byte for byte."""
    train, val = (manifest.loc[manifest["split"] == split] for split in ("train", "val"))
    copies = val[val["sha256"].isin(train["sha256"])]
    if len(copies):
        print(
            f"prepare: {len(copies)} of {len(val)} validation images are in the train split too, e.g. "
            f"{copies['path'].iloc[0]}: accuracy is too high by what was learnt from them",
            file=sys.stderr,
        )


def divide(samples: Sequence[Sample], params: Data) -> dict[Split, list[Sample]]:
    """The source's own split, or one that is stratified by class and seeded; each keeps the source's order.

    Raises:
        VitquantError: there are too few classes, or too few images of one, by their names alone.
    """
    _check_class_sizes(samples)
    if all(sample.split for sample in samples):
        found = {part: [sample for sample in samples if sample.split == part] for part in SMALLEST}
    else:
        assert not isinstance(params, TinyImagenetData)
        labels = [sample.label for sample in samples]
        try:
            train, val = train_test_split(
                range(len(samples)), test_size=params.val_fraction, train_size=params.train_fraction,
                random_state=params.seed, stratify=labels,
            )  # fmt: skip
        except ValueError as error:
            beside = f" and train_fraction: {params.train_fraction}" if params.train_fraction else ""
            raise VitquantError(
                f"data.val_fraction: {params.val_fraction}{beside} cannot split this data: {error}"
            ) from None
        found = {"train": [samples[row] for row in sorted(train)], "val": [samples[row] for row in sorted(val)]}
    _check_splits({part: [sample.label for sample in own] for part, own in found.items()},
                  {sample.label for sample in samples})  # fmt: skip
    return found


class _Rows:
    """A .npy file of uint8 images, (rows, side, side, 3), written in any order, from any thread.

    It is written and not mapped: mapped pages would count as this process's memory, and a full disk would
    be a SIGBUS. The disk space is reserved at once.
    """

    def __init__(self, path: Path, rows: int, side: int) -> None:
        self._file = path.open("w+b", buffering=0)
        self._shape = (side, side, 3)
        self._size = side * side * 3
        self._start = self._write_header(rows)
        os.posix_fallocate(self._file.fileno(), 0, self._start + rows * self._size)

    def write(self, row: int, image: bytes) -> None:
        """Put an image, the bytes of uint8 (side, side, 3), into its row."""
        os.pwrite(self._file.fileno(), image, self._start + row * self._size)

    def close(self, keep: NDArray[np.bool_]) -> None:
        """Finish the file with only the rows to keep, in their order."""
        kept = np.flatnonzero(keep)
        for target, row in enumerate(kept.tolist()):
            if target != row:
                content = os.pread(self._file.fileno(), self._size, self._start + row * self._size)
                os.pwrite(self._file.fileno(), content, self._start + target * self._size)
        start = self._write_header(len(kept))
        assert start == self._start  # NumPy pads the header to a multiple of 64 bytes
        self._file.truncate(start + len(kept) * self._size)
        self._file.close()

    def _write_header(self, rows: int) -> int:
        self._file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()


class _Budget:
    """What several threads may have at a time, all together; one that asks for too much waits until there is enough."""

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = Condition()

    @contextmanager
    def share(self, part: int) -> Iterator[None]:
        """Hold `part` of it, or all where that is less, for as long as it is needed."""
        part = min(part, self._total)
        with self._changed:
            self._changed.wait_for(lambda: part <= self._left)
            self._left -= part
        try:
            yield
        finally:
            with self._changed:
                self._left += part
                self._changed.notify_all()


def _decode_all(
    jobs: Sequence[tuple[Sample, _Rows, int]], preprocessing: Preprocessing, params: Data
) -> list[str | None]:
    """Decode every sample into its row, in parallel; the SHA-256 of each file, or None where it was skipped.

    Threads do: Pillow releases the GIL while it decodes and resizes. All together they decode at most
    `params.max_megapixels` at any time.
    """
    problems = []
    budget = _Budget(round(params.max_megapixels * 1e6))

    def decode(sample: Sample, rows: _Rows, row: int) -> str | None:
        try:
            content = sample.read()
            image = opened(content, params.max_megapixels)
            with budget.share(image.width * image.height):
                pixels = preprocessing.pixels(image)
        except (OSError, UndecodableError) as error:
            problems.append(f"{sample.name} ({error})")
            return None
        rows.write(row, pixels.tobytes())
        return hashlib.sha256(content).hexdigest()

    def decode_chunk(start: int) -> list[str | None]:
        return [decode(*job) for job in jobs[start : start + CHUNK]]

    digests: list[str | None] = []
    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(desc="prepare", unit="img", total=len(jobs)) as bar,
    ):
        for chunk in pool.map(decode_chunk, range(0, len(jobs), CHUNK)):
            digests += chunk
            bar.update(len(chunk))
    settle(problems, len(jobs), params.on_undecodable, "prepare")
    return digests
