"""The classifier that a checkpoint has, its rows those of the study's classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from vitquant.artifact import Pooling
from vitquant.errors import VitquantError
from vitquant.models import pooling
from vitquant.models.vit import ViTClassifier

SHOWN = 3  # classes that a message names
WITHOUT = "take the model without it (in a study head: probe or features, in timm num_classes=0)"


def attach(
    model: ViTClassifier,
    tensors: Mapping[str, Tensor],
    classes: Sequence[str],
    listed: Sequence[str] | None,
    place: str = "",
) -> dict[str, Any]:
    """Give the model the classifier, and the pooling that it reads, in place.

    Args:
        tensors: of the classifier, by timm's names.
        classes: of the study; the head gets a row for each.
        listed: the classifier's classes in its order, where the study says them.
        place: the key and the file that the weights are from, for messages.

    Returns:
        How many classes the classifier has, and what says which they are.

    Raises:
        VitquantError: there is no classifier, it is broken or of another model, or its classes are not the study's.
    """
    place = f"{place}: " if place else ""
    model.pooling = pooling.of_classifier(model.backbone)
    weight, bias = _matrix(tensors, "head", place)
    if model.pooling == "two":  # timm averages the logits of both tokens
        other, other_bias = _matrix(tensors, "head_dist", place)
        weight, bias = torch.cat([weight, other], dim=1) / 2, (bias + other_bias) / 2
    elif pooling.reads_class_token(model.backbone) and weight.shape[1] == 2 * pooling.pooled_width(
        model.backbone
    ):  # DINOv2's own way: see vitquant.models.imagenet_head
        model.pooling = "tokens"
    if weight.shape[1] != model.feature_width:
        raise VitquantError(
            f"{place}the weights' own classifier reads {weight.shape[1]} features, and the model gives "
            f"{model.feature_width}: check the model's name and the weights"
        )
    read = {f"{layer}.{part}" for layer in _layers(model.pooling) for part in ("weight", "bias")}
    others = sorted(name for name in tensors if name.replace(".fc.", ".") not in read)
    if others:  # a second classifier whose logits are averaged, or a norm: timm's own function would be another
        raise VitquantError(
            f"{place}the weights' own classifier is more than one linear layer ({_shown(others)}): {WITHOUT}"
        )
    chosen, by = rows(classes, len(weight), listed, place)
    model.head = nn.Linear(weight.shape[1], len(chosen)).requires_grad_(False)
    model.head.weight.copy_(weight[chosen])
    model.head.bias.copy_(bias[chosen])
    return {"classes": len(weight), "rows": by}


def read_classes(file: Path) -> list[str] | None:
    """The classes that a file lists, one a line; None where there is no file.

    Raises:
        VitquantError: it is no text, or names one twice.
    """
    if not file.is_file():
        return None
    try:
        names = [line.rstrip() for line in file.read_text("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise VitquantError(f"model.classes: the file is no UTF-8 text ({error}): write a class on each line") from None
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise VitquantError(f"model.classes: {_shown(twice)} stand there more than once: each is a class of its own")
    return names


def _layers(pooled: Pooling) -> tuple[str, ...]:
    return ("head", "head_dist") if pooled == "two" else ("head",)


def _matrix(tensors: Mapping[str, Tensor], name: str, place: str) -> tuple[Tensor, Tensor]:
    """Weight, float32 (C, F), and bias, float32 (C,), of one linear layer of the classifier."""
    weight = tensors.get(f"{name}.weight", tensors.get(f"{name}.fc.weight"))
    if weight is None or weight.ndim != 2:  # noqa: PLR2004
        found = ", ".join(sorted(tensors)[:SHOWN]) or "none"
        raise VitquantError(
            f"{place}the weights have no classifier of one linear layer, {name}.weight (found: {found}): {WITHOUT}"
        )
    bias = tensors.get(f"{name}.bias", tensors.get(f"{name}.fc.bias"))
    if bias is None:
        bias = torch.zeros(len(weight))
    if bias.shape != weight.shape[:1]:
        raise VitquantError(
            f"{place}the weights' own {name}.bias is {tuple(bias.shape)}, expected {tuple(weight.shape[:1])}"
        )
    weight, bias = weight.float(), bias.float()
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise VitquantError(f"{place}the weights' own {name} holds NaN or infinity: they are broken")
    return weight, bias


def rows(classes: Sequence[str], count: int, listed: Sequence[str] | None, place: str = "") -> tuple[list[int], str]:
    """The classifier's row of each class, and what that is known by.

    Args:
        classes: of the study.
        count: of the classifier's classes.
        listed: those, in its order, where the study says them.
        place: what a message about the weights begins with.

    Raises:
        VitquantError: they are not the study's.
    """
    subset = infer_imagenet_subset({"num_classes": count})
    if listed is not None:
        names, by = list(listed), "by model.classes"
        if len(names) != count:
            raise VitquantError(
                f"model.classes: it lists {len(names)} classes, and the classifier has {count}: write one a line"
            )
    elif subset and set(classes) <= set(known := _synsets(subset)):
        names, by = known, f"by the WordNet ids of {subset}"
    elif count == len(classes):
        names, by = list(classes), "the folders' names, sorted"
    else:
        raise VitquantError(
            f"{place}the weights' own classifier has {count} classes, and the data has {len(classes)} "
            f"({_shown(classes)}): name a file by model.classes that has the classifier's classes in its order, one a "
            "line, or use head: probe"
        )
    row_of = {name: row for row, name in enumerate(names)}
    missing = [name for name in classes if name not in row_of]
    if missing:
        raise VitquantError(
            f"model.classes: {len(missing)} of the data's {len(classes)} classes are not among its {count}: "
            f"{_shown(missing)}: rename the folders, or use head: probe"
        )
    return [row_of[name] for name in classes], by


def _synsets(subset: str) -> list[str]:
    imagenet: Any = ImageNetInfo(subset)  # timm's methods have no types
    names: list[str] = imagenet.label_names()
    return names


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
