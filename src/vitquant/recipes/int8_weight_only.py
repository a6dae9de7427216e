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
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, read_weights, write_weights
from vitquant.models.vit import ViTClassifier
from vitquant.params import Section
from vitquant.recipes.compiled import CastBackbone
from vitquant.recipes.fp32 import empty_model, load_model, replace_linear

DEVICES = ("cpu",)


class Options(Section):
    """None."""


class Int8Linear(nn.Module):
    """weight = scale · integers: integers INT8 (out, in), symmetric over -127 … 127, scale BF16 (out,).

    The scale is rounded to BF16 before the weight is divided by it, so that rounding it costs nothing.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.float()
        scale = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny).bfloat16()
        self.register_buffer("weight", (weight / scale[:, None].float()).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """BF16 (…, in) to BF16 (…, out); the integers are exact in BF16."""
        output = F.linear(inputs, self.weight.to(inputs.dtype)).mul_(self.scale)
        return output if self.bias is None else output.add_(self.bias)


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Quantize the weights of the linear layers; the backbone's other weights become BF16."""
    model = quantize(load_model(fp32))
    write_weights(directory, model.state_dict())
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model, eager; no layer's weights are kept in floating point."""
    model = quantize(empty_model(artifact))
    model.load_state_dict(read_weights(artifact.path), assign=True)
    return CastBackbone(model).eval()


def quantize(model: ViTClassifier) -> ViTClassifier:
    """Quantize the linear layers from FP32, then cast the rest of the backbone to BF16; in place."""
    replace_linear(model, Int8Linear)
    model.backbone.to(torch.bfloat16)
    return model
