"""Tiny ImageNet: 64 × 64 photographs of 200 of ImageNet's classes, 500 to train and 50 to validate with of each.

Stanford's CS231n course. The images are read out of the official zip; nothing is extracted. Its classes are the
WordNet ids that wnids.txt lists; the folder test, which has no labels, is left out.

The zip is known by its MD5 alone: we have no copy that we could trust, to take a SHA-256 of. MD5 tells a broken
download, but not a forged one, so the zip is read as if anybody had made it.
"""

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from vitquant import zips
from vitquant.data.samples import Sample, Split
from vitquant.downloads import download
from vitquant.errors import VitquantError
from vitquant.params import TinyImagenetData

FILE = "tiny-imagenet.zip"
TOP = "tiny-imagenet-200"
LARGEST = 16_000_000  # bytes of a member: images of 64 × 64, and lists with a line for each

Classes = dict[str, list[str]]
"""The images of each class, as sorted names of members."""

_TRAIN_IMAGE = re.compile(rf"{TOP}/train/([^/]+)/images/[^/]+\.JPEG")
_UNSAFE = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)


def fetch(params: TinyImagenetData, raw: Path) -> None:
    """Download the zip to `raw` and check that it is what `samples` needs.

    Raises:
        VitquantError: not downloadable, another digest, or what `samples` raises.
    """
    download(params.url, raw / FILE, "md5", params.md5, key="data.url")
    samples(params, raw)


def samples(params: TinyImagenetData, raw: Path) -> list[Sample]:
    """The images asked for, training ones first, by class and then by name; the class is the WordNet id.

    `train_per_class` and `val_per_class` images are drawn with `params.seed`, for each class and split apart from
    the others: a class keeps its images whatever the rest holds, and a larger draw contains every smaller one.
    They share one open zip, from which several threads may read.

    Raises:
        VitquantError: missing, not a zip, unsafe members, another layout than Tiny ImageNet's, or a class with
            fewer images than asked for.
    """
    archive = _open(raw / FILE)
    names = _safe_names(archive)
    labels = list(dict.fromkeys(_text(archive, names, "wnids.txt").split()))
    train, val = _training(archive, names, labels), _validation(archive, names, labels)
    chosen = [*_choose(params, "train", train), *_choose(params, "val", val)]
    return [Sample(name, label, partial(_read, archive, name), split) for split, label, name in chosen]


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise VitquantError(f"{path} is missing: run `dvc repro -f fetch`") from None
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise VitquantError(
            f"{path} is not a whole zip ({error}): point data.url at Tiny ImageNet's zip and run `dvc repro -f fetch`"
        ) from None


def _safe_names(archive: zipfile.ZipFile) -> set[str]:
    """The names of all members.

    Raises:
        VitquantError: one that would lie outside a folder, or is a symbolic link.
    """
    for member in archive.infolist():
        if _UNSAFE.match(member.filename):
            raise VitquantError(
                f"{archive.filename}: member {member.filename!r} would leave the folder; refusing it: check data.url"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise VitquantError(
                f"{archive.filename}: member {member.filename!r} is a symbolic link; refusing it: check data.url"
            )
    return set(archive.namelist())


def _training(archive: zipfile.ZipFile, names: set[str], labels: list[str]) -> Classes:
    classes: Classes = {label: [] for label in labels}
    for name in sorted(names):
        found = _TRAIN_IMAGE.fullmatch(name)
        if found and found[1] in classes:
            classes[found[1]].append(name)
    return _filled(archive, classes, "training")


def _validation(archive: zipfile.ZipFile, names: set[str], labels: list[str]) -> Classes:
    listing = "val/val_annotations.txt"
    classes: Classes = {label: [] for label in labels}
    seen = set()
    for number, line in enumerate(_text(archive, names, listing).splitlines(), 1):
        if not line.strip():
            continue
        place = f"{archive.filename}: {listing}, line {number}"
        file, _, rest = line.partition("\t")
        label = rest.partition("\t")[0].strip()
        name = f"{TOP}/val/images/{file}"
        if name not in names:
            raise VitquantError(f"{place} names the image {file!r}, which is absent: check data.url")
        if label not in classes:
            raise VitquantError(f"{place} names the class {label!r}, which is not in wnids.txt: check data.url")
        if name in seen:
            raise VitquantError(f"{place} names the image {file!r} a second time: check data.url")
        seen.add(name)
        classes[label].append(name)
    return _filled(archive, {label: sorted(found) for label, found in classes.items()}, "validation")


def _filled(archive: zipfile.ZipFile, classes: Classes, kind: str) -> Classes:
    """`classes`, none of which may be empty."""
    empty = sorted(label for label, names in classes.items() if not names)
    if empty or not classes:
        shown = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")  # noqa: PLR2004
        lacking = f"{len(empty)} of the classes in wnids.txt have no {kind} images ({shown})"
        raise VitquantError(f"{archive.filename}: {lacking if empty else 'wnids.txt is empty'}: check data.url")
    return classes


def _choose(params: TinyImagenetData, split: Split, classes: Classes) -> Iterator[tuple[Split, str, str]]:
    """The split, class and member of each image to use."""
    wanted = params.train_per_class if split == "train" else params.val_per_class
    for label, names in sorted(classes.items()):
        rows = list(range(len(names)))
        if wanted != "all":
            if wanted > len(names):
                raise VitquantError(
                    f"data.{split}_per_class: {wanted} is more than the {len(names)} {split} images of class {label}: "
                    f"ask for at most {min(map(len, classes.values()))}, or all"
                )
            random = np.random.default_rng([params.seed, zlib.crc32(f"{split}/{label}".encode())])
            rows = sorted(random.permutation(len(names))[:wanted].tolist())
        for row in rows:
            yield split, label, names[row]


def _text(archive: zipfile.ZipFile, names: set[str], file: str) -> str:
    """A text member below the top folder."""
    name = f"{TOP}/{file}"
    if name not in names:
        raise VitquantError(f"{archive.filename} lacks {name}: point data.url at Tiny ImageNet's zip")
    try:
        return _read(archive, name).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VitquantError(f"{archive.filename}: {name} cannot be read ({error}): check data.url") from None


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's content.

    Raises:
        OSError: it is damaged, encrypted, or larger than LARGEST.
    """
    return zips.read(archive, name, LARGEST)
