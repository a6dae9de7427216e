"""FP32, eager: the identity recipe, and the baseline of every difference and ratio."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, read_weights, write_weights
from vitquant.models.vit import ViTClassifier
from vitquant.params import Section

DEVICES = ("cpu", "cuda")


class Options(Section):
    """None."""


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
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


def unfinished(fp32: Artifact, directory: Path, method: str, options: Section) -> Artifact:
    """The artifact that `build` is making in `directory`, its weights written, as `load` will see it."""
    return Artifact(directory, fp32.spec.model_copy(update={"method": method, "options": options.model_dump()}))


def replace_linear(model: ViTClassifier, replacement: Callable[[nn.Linear], nn.Module]) -> ViTClassifier:
    """Replace the backbone's linear layers, in place; the head stays as it is.

    Where `replacement` reads no values, it turns an `empty_model` into the skeleton that takes the weights of a
    model that it has quantized.
    """
    for name, layer in list(model.backbone.named_modules()):
        if isinstance(layer, nn.Linear):
            model.backbone.set_submodule(name, replacement(layer))
    return model
