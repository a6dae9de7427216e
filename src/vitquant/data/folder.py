"""A person's own images: one folder per class, the images inside."""

import shutil
from pathlib import Path

from PIL import Image

from vitquant.data.samples import Sample
from vitquant.errors import VitquantError
from vitquant.params import FolderData


def fetch(params: FolderData, raw: Path) -> None:
    """Copy the images below `params.path` to `raw`, so that the study keeps what it measured.

    Raises:
        VitquantError: no such folder, or fewer than two classes with images in it.
    """
    source = Path(params.path)
    if not source.is_dir():
        raise VitquantError(f"data.path: {source} is not a folder: name one that holds a folder per class")
    found = samples(source)
    classes = sorted({sample.label for sample in found})
    if len(classes) < 2:  # noqa: PLR2004
        raise VitquantError(f"data.path: {source} needs images in at least two class folders, found {classes}")
    for sample in found:
        target = raw / sample.path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.path, target)


def samples(raw: Path) -> list[Sample]:
    """Every image below the class folders, sorted by path; the class is the folder's name."""
    extensions = Image.registered_extensions()
    return [
        Sample(path, folder.name)
        for folder in sorted(raw.iterdir())
        if folder.is_dir()
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in extensions
    ]
