"""A study file for a person's own images and model, written for them: an ordinary one, to edit and run again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm

from vitquant import yaml_files
from vitquant.data import folder
from vitquant.errors import VitquantError
from vitquant.experiment import NAME
from vitquant.models import own_head, weights
from vitquant.models.names import check_name
from vitquant.params import BASELINE, FolderData

QUICK = ("fp32", "bf16-compiled", "dynamic-int8", "openvino-int8-static", "vitquant-int8")
"""Recipes of params.yaml that are measured where nobody names others: each engine's best, and where people start."""
VAL_FRACTION = 0.4
CALIBRATION = 128  # images
SPARE = 0.9  # of the train split: some images may not decode
Head = Literal["own", "probe", "features"]


@dataclass(frozen=True)
class Wanted:
    """What a person says of their study."""

    images: Path
    model: str
    weights: Path | None = None
    classes: Path | None = None
    head: Head | None = None
    recipes: Sequence[str] = ()
    name: str | None = None


def write(wanted: Wanted, default: Path, out: Path) -> tuple[Path, str]:
    """Write `<name>.yaml` into the folder `out`.

    Args:
        default: params.yaml, whose recipes are named.

    Returns:
        The file, and in words what is classified by.

    Raises:
        VitquantError: there are no images, no such model, weights or recipe, or another study of that name.
    """
    check_name(wanted.model)
    data = {
        "source": "folder", "path": str(wanted.images.resolve()), "val_fraction": VAL_FRACTION, "resize": "auto",
        "crop": "auto", "interpolation": "auto", "seed": 0, "on_undecodable": "skip", "max_megapixels": 80,
    }  # fmt: skip
    if wanted.name and not NAME.fullmatch(wanted.name):
        raise VitquantError(f"--name: {wanted.name!r}: take letters, digits, - and _ alone")
    if not wanted.images.is_dir():
        raise VitquantError(f"--images: {wanted.images} is not a folder: name one that holds a folder per class")
    for option, file in (("--weights", wanted.weights), ("--classes", wanted.classes)):
        if file and not file.is_file():
            raise VitquantError(f"{option}: {file} is not a file: name the one to use")
    samples = folder.samples(FolderData.model_validate(data), wanted.images)
    split = [sample.split for sample in samples]
    train = split.count("train") if any(split) else round((1 - VAL_FRACTION) * len(samples))
    classes = sorted({sample.label for sample in samples})
    head, why = _head(wanted, classes)
    name = wanted.name or _name(f"{wanted.images.resolve().name}-{wanted.model}")
    study: dict[str, Any] = {
        "study": name,
        "model": _model(wanted),
        "data": data,
        "head": head,
        "calibration": {"images": max(1, min(CALIBRATION, int(SPARE * train))), "seed": 0},
        "recipes": _recipes(wanted.recipes, default),
    }
    if head == "features":
        own = yaml_files.read(default)["embedding"]
        study["embedding"] = {**own, "neighbours": max(1, min(own["neighbours"], int(SPARE * train)))}
    file = out / f"{name}.yaml"
    if file.exists() and yaml_files.read(file) != study:
        raise VitquantError(
            f"{file} is there, and is another study: run it by `vitquant experiment {file}`, or take another --name"
        )
    out.mkdir(parents=True, exist_ok=True)
    yaml_files.write(file, study)
    return file, why


def _model(wanted: Wanted) -> dict[str, str]:
    source = {"source": "file", "path": str(wanted.weights.resolve())} if wanted.weights else {"source": "timm"}
    classes = {"classes": str(wanted.classes.resolve())} if wanted.classes else {}
    return {"name": wanted.model, **source, **classes}


def _head(wanted: Wanted, classes: Sequence[str]) -> tuple[Head, str]:
    """What to classify by where nobody says so: the model's own classifier where its classes are the folders."""
    if wanted.head:
        return wanted.head, f"head: {wanted.head}, as you say"
    listed = own_head.read_classes(wanted.classes) if wanted.classes else None
    if wanted.weights:
        _, tensors = weights.parts(weights.read(wanted.weights))
        count = next((len(tensors[name]) for name in ("head.weight", "head.fc.weight") if name in tensors), 0)
    else:
        config: Any = timm.get_pretrained_cfg(wanted.model, allow_unregistered=False)
        count = config.num_classes
    if not count:
        return "probe", "head: probe, fitted on your images: the weights have no classifier"
    try:
        _, by = own_head.rows(classes, count, listed)
    except VitquantError:
        if listed is not None:
            raise
        return "probe", (
            f"head: probe, fitted on your images: the weights' classifier has {count} classes, and your images "
            f"{len(classes)}; --classes FILE says which they are, if they are among them"
        )
    return "own", f"head: own, the weights' classifier of {count} classes: {by}"


def _recipes(names: Sequence[str], default: Path) -> dict[str, Any]:
    """Some of params.yaml's recipes, the baseline among them, in its order."""
    known: dict[str, Any] = yaml_files.read(default)["recipes"]
    unknown = [name for name in names if name not in (*known, "all")]
    if unknown:
        raise VitquantError(f"--recipes: there is no {unknown[0]!r}: there are all, {', '.join(known)}")
    chosen = {BASELINE, *(known if "all" in names else names or QUICK)}
    return {name: recipe for name, recipe in known.items() if name in chosen}


def _name(text: str) -> str:
    """As an experiment may be called."""
    return re.sub("[^A-Za-z0-9_]+", "-", text).strip("-_")[:80] or "study"
