"""The linear head that goes with official DINOv2 weights, restricted to the study's classes."""

from pathlib import Path
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import nn

from vitquant.errors import VitquantError
from vitquant.models import checkpoint
from vitquant.urls import shown


def load(file: Path, classes: list[str], head: nn.Linear, url: str) -> None:
    """Write the rows of `classes` of an official one-layer linear head into `head`.

    That head reads the class token and the mean patch token, concatenated, as ViTClassifier's does: see
    dinov2/hub/classifiers.py of github.com/facebookresearch/dinov2.

    Args:
        file: a checkpoint of `weight`, (1000, 2 × width), and `bias`, (1000,), in the order of ImageNet-1k's ids.
        classes: WordNet ids, as `n01440764`.
        head: a linear layer from 2 × width features to the classes.
        url: where the checkpoint is from, for messages.

    Raises:
        VitquantError: a class is no ImageNet-1k id, or the file is missing, broken, or of another shape.
    """
    imagenet: Any = ImageNetInfo()  # timm's methods have no types
    row_of = {name: row for row, name in enumerate(imagenet.label_names())}
    unknown = [name for name in classes if name not in row_of]
    if unknown:
        first = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")  # noqa: PLR2004
        raise VitquantError(
            f"head: imagenet1k needs classes that are ImageNet-1k WordNet ids; {first} are not: use head: probe"
        )
    tensors, place = checkpoint.read(file), f"model.head_url: {shown(url)}"
    expected = {"weight": (len(row_of), head.in_features), "bias": (len(row_of),)}
    for name, shape in expected.items():
        found = f"is {tuple(tensors[name].shape)}" if name in tensors else "is missing"
        if found != f"is {shape}":
            raise VitquantError(
                f"{place}: {name} {found}, expected {shape}: name the one-layer linear head of the backbone that "
                "model.name is"
            )
        if not torch.isfinite(tensors[name].float()).all():
            raise VitquantError(f"{place}: {name} holds NaN or infinity: the file is broken, name another")
    rows = [row_of[name] for name in classes]
    with torch.no_grad():
        head.weight.copy_(tensors["weight"][rows])
        head.bias.copy_(tensors["bias"][rows])
