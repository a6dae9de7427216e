"""zentorch, AMD's plugin for PyTorch: BF16, or INT8 with dynamic activations, by ZenDNN's kernels.

zentorch's own pass for export, which puts its linear layers into the graph and lays their weights out, runs in PyTorch
Inductor. INT8 is its `zentorch_dynamic_qlinear`, as its documentation has it: weights symmetric per channel,
activations symmetric per token, at run time. The patch embedding, attention and LayerNorm are Inductor's.

What the package changes in a process that imports it, PyTorch's other recipes would run with too: nothing imports it
before this method builds or loads.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, unfinished
from vitquant.engines import inductor
from vitquant.engines.require import require
from vitquant.errors import UnsupportedError
from vitquant.models.loading import CastBackbone, cast, empty_model, fill, load_model
from vitquant.params import Section
from vitquant.predictor import read_weights, write_weights
from vitquant.quantization import rounding
from vitquant.quantization.layers import DynamicLinear, replace_linear
from vitquant.traits import Traits


class Options(Section):
    """What params.yaml may say of this recipe."""

    precision: Literal["bf16", "int8"]
    """Of the backbone's linear layers."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    if options.precision == "bf16":
        return Traits(weight_bits=16, activation_bits=16, arithmetic="bfloat16", execution="compiled", devices=("cpu",))
    return Traits(weight_bits=8, activation_bits=8, arithmetic="int8", execution="compiled", devices=("cpu",))


class ZenLinear(DynamicLinear):
    """A linear layer that zentorch quantizes the inputs of, and multiplies."""

    def forward(self, inputs: Tensor) -> Tensor:
        """FP32 or BF16 (…, in) to the same type (…, out)."""
        output: Tensor = torch.ops.zentorch.zentorch_dynamic_qlinear(inputs, self.weight, self.scale, self.bias)
        return output


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the weights in BF16 or INT8, and compile."""
    if options.precision == "bf16":
        write_weights(directory, cast(read_weights(fp32.path), torch.bfloat16))
    else:
        write_weights(directory, replace_linear(load_model(fp32), _quantized).state_dict())
    load(unfinished(fp32.spec, directory, "zentorch", options), torch.device("cpu"))
    return {"zentorch": _zentorch().__version__}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The compiled function, from the cache or compiled now."""
    preload()
    return inductor.load(artifact, module, ("zentorch",), _settings)


def preload() -> None:
    """Load zentorch's library, unless this CPU lacks what its kernels multiply with.

    Raises:
        UnsupportedError: it does, or zentorch is not installed or made for another PyTorch.
    """
    if not (torch.cpu._is_vnni_supported() and torch.cpu._is_avx512_bf16_supported()):
        raise UnsupportedError("zentorch multiplies with AVX-512, its VNNI and its BF16, which this CPU lacks")
    _zentorch()


def module(artifact: Artifact) -> nn.Module:
    """What is compiled."""
    if artifact.spec.options["precision"] == "bf16":
        return CastBackbone(load_model(artifact, torch.bfloat16))
    return fill(replace_linear(empty_model(artifact), _empty), artifact)


def _zentorch() -> Any:
    return require("zentorch")


def _settings() -> dict[str, Any]:
    """Inductor's, which make it run zentorch's pass."""
    return {"joint_custom_post_pass": _zentorch().export_optimize_pass}


def _quantized(layer: nn.Linear) -> ZenLinear:
    scale = rounding.scales(layer.weight)
    return ZenLinear(rounding.nearest(layer.weight, scale), scale, layer.bias)


def _empty(layer: nn.Linear) -> ZenLinear:
    return ZenLinear(layer.weight.to(torch.int8), layer.weight[:, 0], layer.bias)
