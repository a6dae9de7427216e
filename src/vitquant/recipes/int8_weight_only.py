"""INT8 weights, BF16 activations: for memory and size.

A weight is turned into BF16 when its layer runs, and thrown away again. At a ViT's hundreds of tokens that costs a
few per cent of the multiplication, and beats PyTorch's kernel that multiplies by INT8 (`_weight_int8pack_mm`, which
torchao's weight-only quantization compiles to): that took 2 to 3 times as long on an AVX-512 CPU with BF16.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact
from vitquant.models.loading import CastBackbone, empty_model, fill, load_model
from vitquant.params import Section
from vitquant.predictor import write_weights
from vitquant.quantization.layers import WeightOnlyLinear, replace_linear
from vitquant.traits import Traits


class Options(Section):
    """None."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    return Traits(weight_bits=8, activation_bits=16, arithmetic="bfloat16", execution="eager", devices=("cpu",))


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Quantize the weights of the linear layers; the backbone's other weights become BF16."""
    model = replace_linear(load_model(fp32), _quantized)
    model.backbone.to(torch.bfloat16)
    write_weights(directory, model.state_dict())
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model, eager; no layer's weights are kept in floating point."""
    model = replace_linear(empty_model(artifact, torch.bfloat16), _quantized)
    fill(model, artifact)
    return CastBackbone(model).eval()


def _quantized(layer: nn.Linear) -> WeightOnlyLinear:
    """Symmetric over -127 … 127, a scale per channel.

    The scale is rounded to BF16 before the weight is divided by it, so that rounding it costs nothing.
    """
    weight = layer.weight.float()
    scale = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny).bfloat16()
    integers = (weight / scale[:, None].float()).round().clamp(-127, 127).to(torch.int8)
    return WeightOnlyLinear(integers, scale, layer.bias)
