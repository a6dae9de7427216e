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
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, read_weights, write_weights
from vitquant.engines import cuda_graph
from vitquant.models.vit import ViTClassifier
from vitquant.parallel import choose_device
from vitquant.params import Section
from vitquant.quantization import rounding, smoothing
from vitquant.recipes.compiled import CastBackbone
from vitquant.recipes.fp32 import empty_model, load_model, replace_linear
from vitquant.recipes.gpu_float import check_capability

DEVICES = ("cpu", "cuda")
FLOAT8 = torch.float8_e4m3fn
LARGEST = {torch.int8: 127.0, FLOAT8: torch.finfo(FLOAT8).max}
TINY = 1e-12  # so that a token of zeros has a scale


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
    """Of INT8 products on a GPU: PyTorch's, or the one of vitquant.engines.int8_product."""
    compile: Literal["default", "max-autotune"]
    """How Inductor compiles the blocks."""


class DynamicLinear(nn.Module):
    """Each token is quantized by its own largest value, symmetric; the product is scaled back in FP32.

    Args:
        weight: INT8 or FP8 (out, in).
        scale: float32 (out,).
        bias: float32 (out,), or None.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, kernel: str = "pytorch") -> None:
        super().__init__()
        self.kernel = kernel
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """FP16 or BF16 (…, in) to the same type (…, out)."""
        tokens = inputs.flatten(0, -2).float()
        largest = LARGEST[self.weight.dtype]
        scale = tokens.abs().amax(dim=1, keepdim=True).clamp(min=TINY) / largest
        values = (tokens * (1 / scale)).clamp(-largest, largest)
        if self.weight.dtype == torch.int8 and self.kernel == "triton" and inputs.is_cuda:
            from vitquant.engines.int8_product import int8_linear  # Triton is for GPUs

            bias = torch.zeros_like(self.scale) if self.bias is None else self.bias
            output = int8_linear(values.round().to(torch.int8), self.weight, scale, self.scale, bias, inputs.dtype)
        elif self.weight.dtype == torch.int8:
            output = torch._int_mm(values.round().to(torch.int8), self.weight.t()).float() * scale * self.scale
            output = (output if self.bias is None else output + self.bias).to(inputs.dtype)
        else:
            output = torch._scaled_mm(
                values.to(FLOAT8),
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale[None],
                bias=None if self.bias is None else self.bias.to(inputs.dtype),
                out_dtype=inputs.dtype,
                use_fast_accum=True,
            )
        result: Tensor = output.reshape(*inputs.shape[:-1], -1)
        return result


class WeightOnlyLinear(DynamicLinear):
    """The inputs stay in floating point; the weight is turned into their type when the layer runs."""

    def forward(self, inputs: Tensor) -> Tensor:
        """FP16 or BF16 (…, in) to the same type (…, out)."""
        output = F.linear(inputs, self.weight.to(inputs.dtype)) * self.scale.to(inputs.dtype)
        return output if self.bias is None else output + self.bias.to(inputs.dtype)


class ScaledGELU(nn.Module):
    """(GELU(x) - centre) × inverse: the smoothing of fc2's input, which no linear layer precedes.

    Args:
        centre: float32 (K,).
        inverse: float32 (K,).
    """

    centre: Tensor
    inverse: Tensor

    def __init__(self, centre: Tensor, inverse: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("inverse", inverse)

    def forward(self, x: Tensor) -> Tensor:
        """FP16 or BF16 (…, K), alike."""
        return ((F.gelu(x.float()) - self.centre) * self.inverse).to(x.dtype)


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Quantize the weights of the backbone's linear layers."""
    device = choose_device("auto")  # a GPU observes and rounds in seconds, a CPU in a minute
    model = load_model(fp32).to(device)
    moments: dict[str, Tensor] = {}
    details = {}
    if options.smooth:
        images = fp32.spec.preprocessing.normalise(torch.from_numpy(calibration).to(device))
        chosen, moments = smoothing.smooth(model, images, per_token=True)
        for path, block in _blocks(model):
            own = chosen[f"{path}.mlp.fc2"]
            block.mlp.act = ScaledGELU(own.centre, 1 / own.scale)
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
    for dtype in (options.dtype, options.weights):
        check_capability(dtype, device)
    model = replace_linear(
        empty_model(artifact), lambda layer: _layer(options)(layer.weight, layer.bias, layer.bias, options.kernel)
    )
    tensors = read_weights(artifact.path)
    if options.smooth:
        for _, block in _blocks(model):
            block.mlp.act = ScaledGELU(block.mlp.fc1.bias, block.mlp.fc1.bias)
    model.load_state_dict(tensors, assign=True)
    whole = CastBackbone(model).to(device).eval()
    return cuda_graph.compile_blocks(model.backbone.blocks, whole, device, options.compile)


def quantize(weight: Tensor, options: Options, moment: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values, INT8 or FP8 (out, in), and scale, float32 (out,), of a weight, float32 (out, in).

    Args:
        moment: sum of x xᵀ over the layer's inputs, float64 (in, in): INT8 is then rounded by GPTQ.
    """
    if options.weights == "int8":
        scale = rounding.scales(weight)
        return (rounding.nearest(weight, scale) if moment is None else rounding.gptq(weight, scale, moment)), scale
    scale = weight.abs().amax(dim=1).clamp(min=TINY) / LARGEST[FLOAT8]
    return (weight / scale[:, None]).to(FLOAT8), scale


def cast_floats(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's floating-point tensors, in place, but for those of quantized layers and of GELU."""
    for part in module.modules():
        if not isinstance(part, DynamicLinear | ScaledGELU):
            for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
                setattr(part, name, nn.Parameter(tensor.to(dtype), requires_grad=False))


def _layer(options: Options) -> type[DynamicLinear]:
    return DynamicLinear if options.activations == "dynamic" else WeightOnlyLinear


def _blocks(model: ViTClassifier) -> list[tuple[str, Any]]:
    return [(f"backbone.blocks.{index}", block) for index, block in enumerate(model.backbone.blocks)]
