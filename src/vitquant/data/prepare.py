"""Images decoded, resized, cropped and split once, into arrays that later stages memory-map."""

import hashlib
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from vitquant import files
from vitquant.data.prepared import Geometry, Split
from vitquant.data.samples import Sample
from vitquant.errors import VitquantError
from vitquant.params import Data, TinyImagenetData

SMALLEST_CLASS = 4  # images: so that train, its held-out part and val can each have one


def prepare(samples: Sequence[Sample], geometry: Geometry, params: Data, destination: Path) -> None:
    """Decode, resize, crop and split `samples`, and write the prepared directory whole.

    Raises:
        VitquantError: an image does not decode (unless `params.on_undecodable` is skip), or a class is
            too small to be split.
        OSError: the disk is full.
    """
    _check_class_sizes(samples)
    with files.atomic(destination) as partial:
        partial.mkdir()
        splits = _split(samples, params)
        images = {
            split: _new_array(partial / f"{split}_images.npy", len(part), geometry.crop)
            for split, part in splits.items()
        }
        jobs = [(sample, images[split], row) for split, part in splits.items() for row, sample in enumerate(part)]
        digests = _decode_all(jobs, geometry, params.on_undecodable)
        manifest = pd.DataFrame(
            {
                "path": [sample.name for sample, _, _ in jobs],
                "class": [sample.label for sample, _, _ in jobs],
                "split": [split for split, part in splits.items() for _ in part],
                "sha256": digests,
            }
        )
        decoded = manifest["sha256"].notna()
        if not decoded.all():
            _check_class_sizes([sample for (sample, _, _), good in zip(jobs, decoded, strict=True) if good])
        classes = sorted(manifest["class"].unique())
        for split in splits:
            rows = manifest["split"] == split
            _keep_rows(partial / f"{split}_images.npy", decoded[rows].to_numpy())
            labels = manifest.loc[rows & decoded, "class"].map(classes.index)
            np.save(partial / f"{split}_labels.npy", labels.to_numpy(np.int64))
        files.write_json(partial / "classes.json", classes)
        files.write_json(partial / "geometry.json", asdict(geometry))
        manifest[decoded].to_csv(partial / "manifest.csv", index=False)


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


def _split(samples: Sequence[Sample], params: Data) -> dict[Split, list[Sample]]:
    """The source's own split, or one that is stratified by class and seeded; each keeps the source's order."""
    if all(sample.split for sample in samples):
        return {split: [sample for sample in samples if sample.split == split] for split in ("train", "val")}
    assert not isinstance(params, TinyImagenetData)
    labels = [sample.label for sample in samples]
    try:
        train, val = train_test_split(
            range(len(samples)), test_size=params.val_fraction, random_state=params.seed, stratify=labels
        )
    except ValueError as error:
        raise VitquantError(f"data.val_fraction: {params.val_fraction} cannot split this data: {error}") from None
    return {"train": [samples[row] for row in sorted(train)], "val": [samples[row] for row in sorted(val)]}


def _new_array(path: Path, rows: int, side: int) -> NDArray[np.uint8]:
    """A new memory-mapped .npy, uint8 (rows, side, side, 3), its disk space reserved.

    Without the reservation a full disk would be a SIGBUS at the first write to the map.
    """
    shape = (rows, side, side, 3)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        os.posix_fallocate(file.fileno(), 0, file.tell() + rows * side * side * 3)
    return np.lib.format.open_memmap(path, mode="r+")


def _decode_all(
    jobs: Sequence[tuple[Sample, NDArray[np.uint8], int]], geometry: Geometry, on_undecodable: str
) -> list[str | None]:
    """Decode every sample into its row, in parallel; the SHA-256 of each file, or None where it was skipped.

    Threads do: Pillow releases the GIL while it decodes and resizes.
    """
    margin = (geometry.resize - geometry.crop) // 2
    box = (margin, margin, margin + geometry.crop, margin + geometry.crop)
    size, resampling = (geometry.resize, geometry.resize), Image.Resampling[geometry.interpolation.upper()]
    problems = []

    def decode(job: tuple[Sample, NDArray[np.uint8], int]) -> str | None:
        sample, array, row = job
        try:
            content = sample.read()
            with Image.open(io.BytesIO(content)) as image:
                square = ImageOps.fit(image.convert("RGB"), size, resampling)
                array[row] = np.asarray(square.crop(box))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            problems.append(f"{sample.name} ({str(error).split(' <')[0]})")
            return None
        return hashlib.sha256(content).hexdigest()

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        digests = list(tqdm(pool.map(decode, jobs), desc="prepare", unit="img", total=len(jobs)))
    if problems and on_undecodable == "stop":
        shown = "; ".join(sorted(problems)[:5]) + ("; …" if len(problems) > 5 else "")  # noqa: PLR2004
        raise VitquantError(
            f"{len(problems)} of {len(jobs)} images cannot be decoded: {shown}: "
            "mend or remove them, or set data.on_undecodable: skip"
        )
    for problem in sorted(problems):
        print(f"prepare: skipped {problem}", file=sys.stderr)
    return digests


def _keep_rows(path: Path, keep: NDArray[np.bool_]) -> None:
    """Rewrite an image array with only the rows to keep, one row at a time."""
    if keep.all():
        return
    full = np.load(path, mmap_mode="r")
    with files.atomic(path) as partial:
        kept = _new_array(partial, int(keep.sum()), full.shape[1])
        for target, row in enumerate(np.flatnonzero(keep)):
            kept[target] = full[row]
