"""FP32 or BF16, compiled by PyTorch Inductor: what floating point can do on this CPU when it is given a chance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, read_weights, write_weights
from vitquant.engines import inductor
from vitquant.models.vit import ViTClassifier
from vitquant.params import Section
from vitquant.recipes.fp32 import load_model, unfinished

DEVICES = ("cpu",)


class Options(Section):
    """What params.yaml may say of this recipe."""

    dtype: Literal["float32", "bfloat16"]
    """Of the backbone's weights and activations; the head stays FP32."""


class CastBackbone(nn.Module):
    """A classifier whose backbone runs in the type of its weights, and whose head runs in FP32."""

    def __init__(self, model: ViTClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to float32 logits (N, C)."""
        dtype = self.model.backbone.cls_token.dtype
        logits: Tensor = self.model.head(self.model.features(images.to(dtype)).float())
        return logits


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the weights in the wanted type, and compile."""
    write_weights(directory, cast(read_weights(fp32.path), getattr(torch, options.dtype)))
    inductor.load(unfinished(fp32, directory, "compiled", options), module)
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The compiled function, from the cache or compiled now."""
    return inductor.load(artifact, module)


def module(artifact: Artifact) -> nn.Module:
    """What is compiled."""
    return CastBackbone(load_model(artifact))


def cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of a classifier, those of its backbone in `dtype`."""
    return {name: tensor if name.startswith("head.") else tensor.to(dtype) for name, tensor in weights.items()}
