"""A study file for a person's own images and model, written for them: an ordinary one, to edit and run again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from vitquant import yaml_files
from vitquant.data import folder
from vitquant.data.prepare import divide
from vitquant.errors import VitquantError
from vitquant.experiment import NAME
from vitquant.models import layouts, own_head, weights
from vitquant.models.names import check_name
from vitquant.models.pooling import reads_class_token
from vitquant.models.vit import ViTClassifier, preprocessing
from vitquant.params import BASELINE, FolderData

QUICK = ("fp32", "bf16-compiled", "dynamic-int8", "openvino-int8-static", "vitquant-int8")
"""Recipes of params.yaml that are measured where nobody names others: each engine's best, and where people start."""
VAL_FRACTION = 0.4
CALIBRATION = 128  # images
SPARE = 0.9  # of the train split: some images may not decode
OPTIONS = {
    "data.path": "--images", "model.name": "--model", "model.path": "--weights", "model.classes": "--classes",
    "use head: probe": "use --head probe", "in a study head: probe or features": "--head probe or features",
    "check it, then run `dvc repro -f fetch`": "check it, or name another",
}  # fmt: skip
"""What stands in messages, and what a person who has no study file yet knows it by."""
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
        VitquantError: there are no images, no such model, weights or recipe, or another study of that name; or they do
            not go together.
    """
    try:
        return _write(wanted, default, out)
    except VitquantError as error:
        raise VitquantError(_as_given(error)) from error


def _write(wanted: Wanted, default: Path, out: Path) -> tuple[Path, str]:
    check_name(wanted.model, "model.name")
    content = {
        "source": "folder", "path": str(wanted.images.resolve()), "val_fraction": VAL_FRACTION, "resize": "auto",
        "crop": "auto", "interpolation": "auto", "seed": 0, "on_undecodable": "skip", "max_megapixels": 80,
    }  # fmt: skip
    if wanted.name and not NAME.fullmatch(wanted.name):
        raise VitquantError(f"--name: {wanted.name!r}: take letters, digits, - and _ alone")
    for option, file in (("--weights", wanted.weights), ("--classes", wanted.classes)):
        if file and not file.is_file():
            raise VitquantError(f"{option}: {file} is not a file: name the one to use")
    recipes = _recipes(wanted.recipes, default)
    folder.check(wanted.images)
    data = FolderData.model_validate(content)
    splits = divide(folder.samples(data, wanted.images), data)
    with torch.device("meta"):  # no memory for the weights, nor time
        model = ViTClassifier(wanted.model, preprocessing(wanted.model, data).crop, 0)
    head, why = _head(wanted, model, sorted({sample.label for sample in splits["val"]}))
    name = wanted.name or _name(f"{wanted.images.resolve().name}-{wanted.model}")
    spared = max(1, int(SPARE * len(splits["train"])))
    study: dict[str, Any] = {
        "study": name,
        "model": _model(wanted),
        "data": content,
        "head": head,
        "calibration": {"images": min(CALIBRATION, spared), "seed": 0},
        "recipes": recipes,
    }
    if head == "features":
        own = yaml_files.read(default)["embedding"]
        pooled = "class" if reads_class_token(model.backbone) else "own"
        study["embedding"] = {**own, "pooling": pooled, "neighbours": min(own["neighbours"], spared)}
    file = out / f"{name}.yaml"
    if file.exists() and yaml_files.read(file) != study:
        raise VitquantError(
            f"{file} is there, and is another study: run it by `vitquant experiment {file}`, or take another --name"
        )
    out.mkdir(parents=True, exist_ok=True)
    yaml_files.write(file, study)
    return file, why


def _as_given(error: VitquantError) -> str:
    """The message, with the options of the command for the keys of the file that is not written yet."""
    text = str(error)
    for key, option in OPTIONS.items():
        text = text.replace(key, option)
    return text


def _model(wanted: Wanted) -> dict[str, str]:
    source = {"source": "file", "path": str(wanted.weights.resolve())} if wanted.weights else {"source": "timm"}
    classes = {"classes": str(wanted.classes.resolve())} if wanted.classes else {}
    return {"name": wanted.model, **source, **classes}


def _head(wanted: Wanted, model: ViTClassifier, classes: Sequence[str]) -> tuple[Head, str]:
    """What to classify by where nobody says so: the model's own classifier where its classes are the folders.

    Args:
        model: on the meta device; what is found out about the classifier is left in it.
    """
    classifier = _classifier(wanted, model)
    if wanted.classes and wanted.head in ("probe", "features"):
        raise VitquantError(
            f"--classes: they are those of the weights' own classifier, which --head {wanted.head} leaves out: leave "
            "one of the two options out"
        )
    if wanted.head in ("probe", "features"):
        return wanted.head, f"head: {wanted.head}, as you say"
    if not classifier and not wanted.head and not wanted.classes:
        return "probe", "head: probe, fitted on your images: the weights have no classifier"
    listed = own_head.read_classes(wanted.classes) if wanted.classes else None
    place = f"model.path: {wanted.weights}" if wanted.weights else f"model.name: {wanted.model}"
    try:
        found = own_head.attach(model, classifier, classes, listed, place)
    except VitquantError as error:
        if wanted.head or wanted.classes:
            raise
        why = re.sub("(, or use head: probe|: take the model without).*", "", str(error))
        return "probe", _as_given(VitquantError(f"head: probe, fitted on your images: {why}"))
    return "own", f"head: own, the weights' classifier of {found['classes']} classes: {found['rows']}"


def _classifier(wanted: Wanted, model: ViTClassifier) -> dict[str, Tensor]:
    """The classifier's tensors, once the weights are seen to fit the model; of those that timm publishes zeros."""
    if not wanted.weights:
        with torch.device("meta"):
            tensors = timm.create_model(wanted.model, pretrained=False).state_dict()
        _, published = layouts.parts(tensors, model.backbone.state_dict().keys())
        return {name: torch.zeros(tensor.shape) for name, tensor in published.items()}
    try:
        return weights.check_file(wanted.weights, wanted.model, model.image_size)
    except VitquantError as error:
        raise VitquantError(f"--weights: {error}") from None


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
