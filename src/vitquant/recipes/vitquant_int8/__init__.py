"""INT8 end to end: smoothed, GPTQ-rounded weights, per-token activations, and native code of our own.

Every linear layer of the blocks multiplies INT8 weights (per-channel scales) by 8-bit activations (per-token scales).
All of the model runs in one native call (vitquant.runtime). Smoothing costs nothing at run time: it is folded into
LayerNorm, into the value rows of qkv, and into the function that fc2's inputs come from. The class token, which most
classifiers read, is quantized as a high and a low part. docs/vitquant-int8.md has what each step gave.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.artifact import Artifact
from vitquant.params import Section
from vitquant.predictor import write_weights
from vitquant.runtime import classifier, description
from vitquant.runtime.library import Library
from vitquant.traits import Traits


class Options(Section):
    """None: what is best is what it does."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    return Traits(weight_bits=8, activation_bits=8, arithmetic="int8", execution="compiled", devices=("cpu",))


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Observe, smooth, round and write the integer weights, and describe the network.

    Raises:
        UnsupportedError: the native code does not run the model, or cannot be compiled.
    """
    from vitquant.models.loading import load_model  # timm's models; `load` has no use for them
    from vitquant.quantization import smoothing
    from vitquant.recipes.vitquant_int8.describe import describe
    from vitquant.recipes.vitquant_int8.tensors import block_tensors, other_tensors

    model = load_model(fp32)
    its = describe(model)
    tensors: dict[str, Tensor] = {}
    most = Library().largest_weight_sum  # compiled now, and not when it is first loaded
    images = fp32.spec.preprocessing.normalise(torch.from_numpy(calibration))
    chosen, moments = smoothing.smooth(model, images, per_token=True)
    for index, block in enumerate(model.backbone.blocks):
        path = f"backbone.blocks.{index}"
        centre, inverse = smoothing.left_to_activation(block, chosen[f"{path}.mlp.fc2"])
        tensors |= block_tensors(path, block, centre, inverse, moments, most)
    tensors |= other_tensors(model, its)
    write_weights(directory, {name: tensor.detach() for name, tensor in tensors.items()})
    description.write(directory, its)
    return {"smoothing_strengths": {name: smoothing.strength for name, smoothing in chosen.items()}}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Pack the integer weights for this CPU.

    Raises:
        VitquantError: the artifact's tensors are not what it says of its network, or it says nothing.
        UnsupportedError: they were rounded for a CPU with VNNI, and this one would sum them wrongly.
    """
    packed = classifier.read(artifact)

    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(packed.forward(images.numpy(), torch.get_num_threads()))

    return forward
