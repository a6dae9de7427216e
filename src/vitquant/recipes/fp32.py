"""FP32, eager: the identity recipe, and the baseline of every difference and ratio."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.artifact import Artifact
from vitquant.models.loading import load_model
from vitquant.params import Section
from vitquant.predictor import read_weights, write_weights
from vitquant.traits import FP32, Traits


class Options(Section):
    """None."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    return FP32


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the weights as they are."""
    write_weights(directory, read_weights(fp32.path))
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model in evaluation mode."""
    return load_model(artifact).to(device)
