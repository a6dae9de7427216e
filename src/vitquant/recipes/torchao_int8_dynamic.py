"""torchao's INT8 dynamic quantization, compiled: weights per channel, activations per token at run time.

torchao (`Int8DynamicActivationInt8WeightConfig`) quantizes the weights. The layer that runs is written out here:
it computes what torchao's does, in a third of the operations, which halves the time of compiling.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, read_weights, write_weights
from vitquant.engines import inductor
from vitquant.errors import UnsupportedError
from vitquant.params import Section
from vitquant.recipes.fp32 import empty_model, load_model, replace_linear, unfinished

DEVICES = ("cpu",)


class Options(Section):
    """None."""


class DynamicInt8Linear(nn.Module):
    """Integers INT8 (out, in) and scale FP32 (out,) for the weight; each token is quantized by its own largest value.

    Both ranges are symmetric over -128 … 127, so that a scale is the largest magnitude / 127.5.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, integers: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", integers)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """FP32 (…, in) to FP32 (…, out)."""
        tokens = inputs.flatten(0, -2)
        scale = (tokens.abs().amax(dim=1, keepdim=True) / 127.5).clamp(min=torch.finfo(torch.float32).eps)
        integers = (tokens * (1 / scale)).round().clamp(-128, 127).to(torch.int8)
        output: Tensor = torch._int_mm(integers, self.weight.t()).float() * scale * self.scale
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*inputs.shape[:-1], -1)


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Quantize the weights of the linear layers, and compile."""
    model = replace_linear(load_model(fp32), _quantized)
    write_weights(directory, model.state_dict())
    inductor.load(unfinished(fp32, directory, "torchao_int8_dynamic", options), module)
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The compiled function, from the cache or compiled now."""
    return inductor.load(artifact, module)


def module(artifact: Artifact) -> nn.Module:
    """What is compiled."""
    model = replace_linear(empty_model(artifact), _empty)
    model.load_state_dict(read_weights(artifact.path), assign=True)
    return model


def _quantized(layer: nn.Linear) -> DynamicInt8Linear:
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        raise UnsupportedError("torchao is not installed: run `uv sync`") from None
    quantize_(layer, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    weight: Any = layer.weight
    return DynamicInt8Linear(layer, weight.qdata, weight.scale.flatten())


def _empty(layer: nn.Linear) -> DynamicInt8Linear:
    return DynamicInt8Linear(layer, layer.weight.to(torch.int8), layer.weight[:, 0])
