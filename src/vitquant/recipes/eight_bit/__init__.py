"""8-bit linear layers as a GPU runs them: INT8 or FP8 weights per channel, compiled. The CPU runs them too.

Activations are quantized per token at run time, in the kernel of the operation before (Inductor fuses it into
LayerNorm and GELU), or stay in floating point. That is the arithmetic of torchao's
`Int8DynamicActivationInt8WeightConfig`, `Int8WeightOnlyConfig` and `Float8DynamicActivationFloat8WeightConfig`
(PerRow). `smooth` adds what vitquant-int8 does before: smoothing by the calibration images, and GPTQ's rounding.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact
from vitquant.engines import cuda_graph
from vitquant.engines.capability import check_capability
from vitquant.models.loading import CastBackbone, empty_model, fill, load_model
from vitquant.models.vit import ViTClassifier
from vitquant.parallel import choose_device
from vitquant.params import Section
from vitquant.predictor import write_weights
from vitquant.quantization import rounding, smoothing
from vitquant.quantization.layers import (
    FLOAT8,
    FP8,
    TINY,
    DynamicLinear,
    SmoothedGELU,
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
    smooth: bool
    """Smoothing and GPTQ, by the calibration images."""
    kernel: Literal["pytorch", "triton"] = "pytorch"
    """Of INT8 products on a GPU: PyTorch's, or our own, with the scales and the bias in one kernel."""


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


class FusedDynamicLinear(DynamicLinear):
    """INT8 whose product, scales and bias are one Triton kernel on a GPU."""

    def product(self, tokens: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Quantized tokens (N, in) and their scales, float32 (N, 1), to `dtype` (N, out)."""
        if not tokens.is_cuda:
            return super().product(tokens, scale, dtype)
        from vitquant.recipes.eight_bit.triton_linear import int8_linear  # Triton is for GPUs

        bias = torch.zeros_like(self.scale) if self.bias is None else self.bias
        output: Tensor = int8_linear(tokens, self.weight, scale, self.scale, bias, dtype)
        return output


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Quantize the weights of the backbone's linear layers."""
    device = choose_device("auto")  # a GPU observes and rounds in seconds, a CPU in a minute
    model = load_model(fp32).to(device)
    moments: dict[str, Tensor] = {}
    details = {}
    if options.smooth:
        smoothing.check_blocks(model)
        images = fp32.spec.preprocessing.normalise(torch.from_numpy(calibration).to(device))
        chosen, moments = smoothing.smooth(model, images, per_token=True)
        for path, block in _blocks(model):
            own = chosen[f"{path}.mlp.fc2"]
            block.mlp.act = SmoothedGELU(own.centre, 1 / own.scale)
        details = {"smoothing_strengths": {name: smoothing.strength for name, smoothing in chosen.items()}}
    by_layer: dict[nn.Module, Tensor] = {model.get_submodule(name): moment for name, moment in moments.items()}

    def quantized(layer: nn.Linear) -> nn.Module:
        return _layer(options)(*quantize(layer.weight, options, by_layer.get(layer)), layer.bias)

    replace_linear(model, quantized)
    cast_floats(model.backbone, getattr(torch, options.dtype))
    write_weights(directory, model.cpu().state_dict())
    return details


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model on `device`, compiled; no layer's weights are kept in floating point."""
    options = Options.model_validate(artifact.spec.options)
    for needed in (options.dtype, options.weights):
        check_capability(needed, device)
    dtype = DTYPES[options.weights]
    model = replace_linear(
        empty_model(artifact), lambda layer: _layer(options)(layer.weight.to(dtype), layer.weight[:, 0], layer.bias)
    )
    if options.smooth:
        for _, block in _blocks(model):
            block.mlp.act = SmoothedGELU(block.mlp.fc1.bias, block.mlp.fc1.bias)
    cast_floats(model.backbone, getattr(torch, options.dtype))
    fill(model, artifact)
    whole = CastBackbone(model).to(device).eval()
    return cuda_graph.compile_blocks(getattr(model.backbone, "blocks", None), whole, device)


def quantize(weight: Tensor, options: Options, moment: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values, INT8 or FP8 (out, in), and scale, float32 (out,), of a weight, float32 (out, in).

    Args:
        moment: sum of x xᵀ over the layer's inputs, float64 (in, in): INT8 is then rounded by GPTQ.
    """
    if options.weights == "int8":
        scale = rounding.scales(weight)
        return (rounding.nearest(weight, scale) if moment is None else rounding.gptq(weight, scale, moment)), scale
    scale = weight.abs().amax(dim=1).clamp(min=TINY) / FP8.largest
    return (weight / scale[:, None]).to(FLOAT8), scale


def cast_floats(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's floating-point tensors, in place, but for those of quantized layers and of GELU."""
    for part in module.modules():
        if not isinstance(part, DynamicLinear | WeightOnlyLinear | SmoothedGELU):
            for name, tensor in part.named_parameters(recurse=False):
                setattr(part, name, nn.Parameter(tensor.to(dtype), requires_grad=False))


def _layer(options: Options) -> Callable[[Tensor, Tensor, Tensor | None], nn.Module]:
    if options.activations == "float":
        return WeightOnlyLinear
    if options.kernel == "pytorch" or options.weights == "float8":
        return DynamicLinear
    return FusedDynamicLinear


def _blocks(model: ViTClassifier) -> list[tuple[str, Any]]:
    return [(f"backbone.blocks.{index}", block) for index, block in enumerate(model.backbone.blocks)]
