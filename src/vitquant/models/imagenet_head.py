"""The linear head that goes with official DINOv2 weights, restricted to the study's classes."""

from pathlib import Path
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import nn

from vitquant.errors import VitquantError
from vitquant.models import weights


def load(file: Path, classes: list[str], head: nn.Linear) -> None:
    """Write the rows of `classes` of an official one-layer linear head into `head`.

    That head reads the class token and the mean patch token, concatenated, as ViTClassifier's does: see
    dinov2/hub/classifiers.py of github.com/facebookresearch/dinov2.

    Args:
        file: a checkpoint of `weight`, (1000, 2 × width), and `bias`, (1000,), in the order of ImageNet-1k's ids.
        classes: WordNet ids, as `n01440764`.
        head: a linear layer from 2 × width features to the classes.

    Raises:
        VitquantError: a class is no ImageNet-1k id, or the file is missing, broken, or of another shape.
    """
    imagenet: Any = ImageNetInfo()  # timm's methods have no types
    row_of = {name: row for row, name in enumerate(imagenet.label_names())}
    unknown = [name for name in classes if name not in row_of]
    if unknown:
        shown = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")  # noqa: PLR2004
        raise VitquantError(
            f"head: imagenet1k needs classes that are ImageNet-1k WordNet ids; {shown} are not: use head: probe"
        )
    tensors = weights.read(file)
    expected = {"weight": (len(row_of), head.in_features), "bias": (len(row_of),)}
    for name, shape in expected.items():
        found = f"is {tuple(tensors[name].shape)}" if name in tensors else "is missing"
        if found != f"is {shape}":
            raise VitquantError(
                f"{file}: {name} {found}, expected {shape}: model.head_url must be the one-layer linear head of the "
                "backbone that model.name is"
            )
        if not torch.isfinite(tensors[name].float()).all():
            raise VitquantError(f"{file}: {name} holds NaN or infinity: it is broken; check model.head_url")
    rows = [row_of[name] for name in classes]
    with torch.no_grad():
        head.weight.copy_(tensors["weight"][rows])
        head.bias.copy_(tensors["bias"][rows])
