"""8-bit linear layers as a GPU runs them: INT8 or FP8 weights per channel, compiled. The CPU runs them too.

Activations are quantized per token at run time, in the kernel of the operation before (Inductor fuses it into
LayerNorm and GELU), or stay in floating point. That is the arithmetic of torchao's
`Int8DynamicActivationInt8WeightConfig`, `Int8WeightOnlyConfig` and `Float8DynamicActivationFloat8WeightConfig`
(PerRow): what people get without kernels of their own, which vitquant_gpu has.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from vitquant.artifact import Artifact
from vitquant.engines import cuda_graph
from vitquant.engines.capability import check_capability
from vitquant.models.loading import CastBackbone, empty_model, fill, load_model
from vitquant.params import Section
from vitquant.predictor import write_weights
from vitquant.quantization import rounding
from vitquant.quantization.layers import (
    FLOAT8,
    FP8,
    TINY,
    DynamicLinear,
    WeightOnlyLinear,
    replace_linear,
)
from vitquant.traits import Traits

DTYPES = {"int8": torch.int8, "float8": FLOAT8}


class Options(Section):
    """What params.yaml may say of this recipe."""

    weights: Literal["int8", "float8"]
    """The linear layers' type."""
    activations: Literal["dynamic", "float"]
    """Their inputs: the weights' type, quantized per token at run time; or floating point."""
    dtype: Literal["float16", "bfloat16"]
    """Of all else but the head, which stays FP32. FP8 products come in BF16."""

    @model_validator(mode="after")
    def _float8_gives_bfloat16(self) -> "Options":
        if (self.weights, self.activations, self.dtype) == ("float8", "dynamic", "float16"):
            raise ValueError("weights: float8 with dynamic activations needs dtype: bfloat16")
        return self


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    dynamic = options.activations == "dynamic"
    return Traits(
        weight_bits=8,
        activation_bits=8 if dynamic else 16,
        arithmetic=options.weights if dynamic else options.dtype,
        execution="compiled",
        devices=("cpu", "cuda"),
    )


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Quantize the weights of the backbone's linear layers."""
    model = load_model(fp32)

    def quantized(layer: nn.Linear) -> nn.Module:
        return _layer(options)(*quantize(layer.weight, options.weights), layer.bias)

    replace_linear(model, quantized)
    cast_floats(model.backbone, getattr(torch, options.dtype))
    write_weights(directory, model.state_dict())
    return {}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model on `device`, compiled; no layer's weights are kept in floating point."""
    options = Options.model_validate(artifact.spec.options)
    for needed in (options.dtype, options.weights):
        check_capability(needed, device)
    dtype = DTYPES[options.weights]
    model = replace_linear(
        empty_model(artifact), lambda layer: _layer(options)(layer.weight.to(dtype), layer.weight[:, 0], layer.bias)
    )
    cast_floats(model.backbone, getattr(torch, options.dtype))
    fill(model, artifact)
    whole = CastBackbone(model).to(device).eval()
    return cuda_graph.compile_blocks(getattr(model.backbone, "blocks", None), whole, device)


def quantize(weight: Tensor, dtype: Literal["int8", "float8"]) -> tuple[Tensor, Tensor]:
    """Values, INT8 or FP8 (out, in), and scale, float32 (out,), of a weight, float32 (out, in)."""
    if dtype == "int8":
        scale = rounding.scales(weight)
        return rounding.nearest(weight, scale), scale
    scale = weight.abs().amax(dim=1).clamp(min=TINY) / FP8.largest
    return (weight / scale[:, None]).to(FLOAT8), scale


def cast_floats(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's floating-point tensors, in place, but for those of quantized layers."""
    for part in module.modules():
        if not isinstance(part, DynamicLinear | WeightOnlyLinear):
            for name, tensor in part.named_parameters(recurse=False):
                setattr(part, name, nn.Parameter(tensor.to(dtype), requires_grad=False))


def _layer(options: Options) -> Callable[[Tensor, Tensor, Tensor | None], nn.Module]:
    return WeightOnlyLinear if options.activations == "float" else DynamicLinear
