"""A person's own images: one folder per class, the images inside (torchvision's ImageFolder layout).

Where the root holds the folders `train` and `val`, with the class folders below each, that is the split; `training`,
`valid` and `validation` are taken for them, in any case, and `test` or `testing` beside them is left out. Images may
lie deeper inside a class folder. Links are followed, to folders, and to files that are images by their content; hidden
files and folders are left out.
"""

import os
from pathlib import Path

from vitquant.data.samples import Sample, Split, file_sample, settle
from vitquant.errors import VitquantError
from vitquant.images import UndecodableError, extensions, opened
from vitquant.params import FolderData

SPLITS: dict[str, Split | None] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": None,
    "testing": None,
}


def fetch(params: FolderData, raw: Path) -> None:
    """Copy the images below `params.path` to `raw`, so that the study keeps what it measured.

    Nothing is copied that has an image's name but not its header: a link may lead to anything.

    Raises:
        VitquantError: no such folder, fewer than two classes, a class folder without images or with class folders
            inside, a class that one of the splits lacks, or a split without a train or a validation folder; a
            file that is no image, or cannot be read (unless `params.on_undecodable` is skip), or a class folder with no
            others.
    """
    source = Path(params.path)
    check(source)
    _copy(samples(params, source), params, raw)


def check(source: Path) -> None:
    """See that a folder holds a folder per class, or such folders below train and val, and images in each.

    Raises:
        VitquantError: as of fetch, but for images that are none.
    """
    if not source.is_dir():
        raise VitquantError(f"data.path: {source} is not a folder: name one that holds a folder per class")
    roots = _roots(source)
    for root in roots:
        _check_classes(root)
    if len(roots) > 1:
        train, val = ({folder.name for folder in _folders(root)} for root in roots)
        if train != val:
            raise VitquantError(f"data.path: {source}: train and val differ in the classes {sorted(train ^ val)}")


def _copy(found: list[Sample], params: FolderData, raw: Path) -> None:
    problems, lost = [], {(sample.split, sample.label) for sample in found}
    for sample in found:
        try:
            content = sample.read()
            opened(content, params.max_megapixels)
        except (OSError, UndecodableError) as error:
            problems.append(f"{sample.name} ({error})")
            continue
        lost.discard((sample.split, sample.label))
        target = raw / sample.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    settle(problems, len(found), params.on_undecodable, "fetch")
    if lost:
        names = sorted("/".join(filter(None, place)) for place in lost)
        raise VitquantError(f"data.path: {params.path}: no images in the class folders {names}: fill or remove them")


def samples(params: FolderData, raw: Path) -> list[Sample]:  # noqa: ARG001  # every source takes its parameters
    """Every image below the class folders, sorted by path; the class is the folder's name."""
    return [
        file_sample(path, raw, folder.name, split)
        for root, split in _roots(raw).items()
        for folder in _folders(root)
        for path in images(folder)
    ]


def _roots(source: Path) -> dict[Path, Split | None]:
    """The folders that hold class folders: those of train and val, or the source itself, which has no split.

    Raises:
        VitquantError: the folders are those of a split, and train or validation is missing or there twice.
    """
    folders = _folders(source)
    beside = [folder.name for folder in folders if folder.name.lower() not in SPLITS]
    found: dict[Split, list[Path]] = {"train": [], "val": []}
    for folder in folders:
        split = SPLITS.get(folder.name.lower())
        if split:
            found[split].append(folder)
    if not folders or (beside and not all(found.values())):
        return {source: None}
    if beside:
        raise VitquantError(
            f"data.path: {source} holds a train and a val folder, and {beside} beside them: move that out"
        )
    for part, matching in found.items():
        if len(matching) != 1:
            names = [folder.name for folder in folders]
            raise VitquantError(
                f"data.path: {source} holds {names}, a split with {len(matching)} {part} folders: it needs one "
                "named train and one named val"
            )
    return {found["train"][0]: "train", found["val"][0]: "val"}


def _check_classes(root: Path) -> None:
    folders = _folders(root)
    if len(folders) < 2:  # noqa: PLR2004
        names = [folder.name for folder in folders]
        raise VitquantError(f"data.path: {root} needs at least two class folders, found {names}")
    for folder in folders:
        inside = {path.relative_to(folder).parts[0] for path in images(folder)}
        if len(inside) > 1 and all((folder / name).is_dir() for name in inside):
            raise VitquantError(
                f"data.path: {folder} holds no images but folders of them, {sorted(inside)[:3]}: name the folder whose "
                "folders are the classes, or move the images up"
            )
    empty = [folder.name for folder in folders if not images(folder)]
    if empty:
        raise VitquantError(f"data.path: {root}: no images in the class folders {empty}: fill or remove them")


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def images(folder: Path) -> list[Path]:
    """What has an image's extension, in the order of the paths; links are followed, but into no circle.

    A link that leads nowhere is among them, so that it does not go unnoticed.
    """
    names_of_images = extensions()
    found, seen = [], {os.path.realpath(parent) for parent in folder.absolute().parents}
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in names_of_images)
