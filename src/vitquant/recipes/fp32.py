"""FP32, eager: the identity recipe, and the baseline of every difference and ratio."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitquant.artifact import Artifact, read_weights, write_weights
from vitquant.models.vit import ViTClassifier
from vitquant.params import Section

DEVICES = ("cpu", "cuda")


class Options(Section):
    """None."""


def build(fp32: Artifact, directory: Path, options: Options) -> dict[str, Any]:  # noqa: ARG001
    """Write the weights as they are."""
    write_weights(directory, read_weights(fp32.path))
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model in evaluation mode."""
    return load_model(artifact).to(device)


def load_model(artifact: Artifact) -> ViTClassifier:
    """The FP32 model of an artifact whose weights are FP32."""
    model = empty_model(artifact)
    model.load_state_dict(read_weights(artifact.path), assign=True)
    return model


def empty_model(artifact: Artifact) -> ViTClassifier:
    """The artifact's architecture in evaluation mode, its weights without memory (on the meta device)."""
    spec = artifact.spec
    with torch.device("meta"):
        model = ViTClassifier(spec.architecture, spec.preprocessing.crop, len(spec.classes))
    return model.requires_grad_(False).eval()
