"""FP32 or BF16, compiled by PyTorch Inductor: what floating point can do on this CPU when it is given a chance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, unfinished
from vitquant.engines import inductor
from vitquant.models.loading import CastBackbone, cast, load_model
from vitquant.params import Section
from vitquant.predictor import read_weights, write_weights
from vitquant.traits import Traits


class Options(Section):
    """What params.yaml may say of this recipe."""

    dtype: Literal["float32", "bfloat16"]
    """Of the backbone's weights and activations; the head stays FP32."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    bits = 32 if options.dtype == "float32" else 16
    return Traits(
        weight_bits=bits, activation_bits=bits, arithmetic=options.dtype, execution="compiled", devices=("cpu",)
    )


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the weights in the wanted type, and compile."""
    write_weights(directory, cast(read_weights(fp32.path), getattr(torch, options.dtype)))
    inductor.load(unfinished(fp32.spec, directory, "compiled", options), module)
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The compiled function, from the cache or compiled now."""
    return inductor.load(artifact, module)


def module(artifact: Artifact) -> nn.Module:
    """What is compiled."""
    return CastBackbone(load_model(artifact, getattr(torch, artifact.spec.options["dtype"])))
