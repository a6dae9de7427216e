"""A ViT's weights, from the place that `model.source` names, into the model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitquant.errors import VitquantError
from vitquant.models import onnx_vit
from vitquant.models.vit import ViTClassifier, create_backbone
from vitquant.params import OnnxWheelModel, RandomModel


def load_into(model: ViTClassifier, params: OnnxWheelModel | RandomModel, raw: Path) -> None:
    """Fill the model's backbone from the raw weights; its head is left alone.

    Raises:
        VitquantError: a weight is missing, left over, of another shape, or not finite.
    """
    backbone = model.backbone
    if isinstance(params, OnnxWheelModel):
        file = raw / params.file
        weights = onnx_vit.state_dict(file, grid=backbone.patch_embed.grid_size[0])
    else:
        file = raw
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed)
            weights = create_backbone(params.name, backbone.patch_embed.img_size[0]).state_dict()
    _check(weights, backbone.state_dict(), file)
    backbone.load_state_dict(weights)


def _check(weights: dict[str, Tensor], expected: dict[str, Any], file: Path) -> None:
    """Compare weights read from `file` with the tensors that the architecture expects."""
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    for name, tensor in weights.items():
        if name in expected and tensor.shape != expected[name].shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} holds NaN or infinity")
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")  # noqa: PLR2004
        raise VitquantError(f"{file} does not fit the model: {shown}: check model.name and the weights file")
