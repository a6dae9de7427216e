"""A person's own images: one folder per class, the images inside (torchvision's ImageFolder layout).

Where the root holds just the folders `train` and `val`, with the class folders below each, that is the split.
"""

import shutil
from pathlib import Path

from PIL import Image

from vitquant.data.samples import Sample, Split, file_sample
from vitquant.errors import VitquantError
from vitquant.params import FolderData

SPLITS: tuple[Split, Split] = ("train", "val")


def fetch(params: FolderData, raw: Path) -> None:
    """Copy the images below `params.path` to `raw`, so that the study keeps what it measured.

    Raises:
        VitquantError: no such folder, fewer than two classes, a class folder without images, or a class that
            one of the splits lacks.
    """
    source = Path(params.path)
    if not source.is_dir():
        raise VitquantError(f"data.path: {source} is not a folder: name one that holds a folder per class")
    for root in [source / split for split in SPLITS] if _is_split(source) else [source]:
        _check_classes(root)
    if _is_split(source):
        train, val = ({folder.name for folder in _folders(source / split)} for split in SPLITS)
        if train != val:
            raise VitquantError(f"data.path: {source}: train and val differ in the classes {sorted(train ^ val)}")
    for sample in samples(params, source):
        target = raw / sample.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / sample.name, target)


def samples(params: FolderData, raw: Path) -> list[Sample]:  # noqa: ARG001  # every source takes its parameters
    """Every image below the class folders, sorted by path; the class is the folder's name."""
    if _is_split(raw):
        return [
            file_sample(path, raw, folder.name, split)
            for split in SPLITS
            for folder in _folders(raw / split)
            for path in _images(folder)
        ]
    return [file_sample(path, raw, folder.name) for folder in _folders(raw) for path in _images(folder)]


def _is_split(root: Path) -> bool:
    return {folder.name for folder in _folders(root)} == set(SPLITS)


def _check_classes(root: Path) -> None:
    folders = _folders(root)
    if len(folders) < 2:  # noqa: PLR2004
        names = [folder.name for folder in folders]
        raise VitquantError(f"data.path: {root} needs at least two class folders, found {names}")
    empty = [folder.name for folder in folders if not _images(folder)]
    if empty:
        raise VitquantError(f"data.path: {root}: no images in the class folders {empty}: fill or remove them")


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """The files with an image's extension; others, such as notes and thumbnails' databases, are left out."""
    extensions = Image.registered_extensions()
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in extensions and path.is_file()]
