"""Layers that quantized models are made of, and how they take the place of a model's own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitquant.models.vit import ViTClassifier

FLOAT8 = torch.float8_e4m3fn
TINY = 1e-12  # a token's largest magnitude at least, so that a token of zeros has a scale


def replace_linear(model: ViTClassifier, replacement: Callable[[nn.Linear], nn.Module]) -> ViTClassifier:
    """Replace the backbone's linear layers, in place; the head stays as it is.

    Where `replacement` reads no values, it turns an empty model into the skeleton that takes the weights of a model
    that it has quantized.
    """
    for name, layer in list(model.backbone.named_modules()):
        if isinstance(layer, nn.Linear):
            model.backbone.set_submodule(name, replacement(layer))
    return model


@dataclass(frozen=True)
class Levels:
    """The values that a quantized token may take."""

    dtype: torch.dtype
    largest: float
    """What the token's largest magnitude becomes before rounding."""
    lowest: float
    highest: float


INT8 = Levels(torch.int8, 127.0, -127.0, 127.0)
INT8_FULL = Levels(torch.int8, 127.5, -128.0, 127.0)  # torchao's
FP8 = Levels(FLOAT8, torch.finfo(FLOAT8).max, -torch.finfo(FLOAT8).max, torch.finfo(FLOAT8).max)


class DynamicLinear(nn.Module):
    """INT8 or FP8: each token is quantized by its own largest magnitude, symmetric; the product is scaled in FP32.

    Args:
        weight: INT8 or FP8 (out, in).
        scale: float32 (out,).
        bias: float32 (out,), or None.
        levels: of the tokens; the weight's type by default.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, levels: Levels | None = None) -> None:
        super().__init__()
        self.levels = levels or (FP8 if weight.dtype == FLOAT8 else INT8)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Floating point (…, in) to the same type (…, out); FP8 takes and gives BF16."""
        tokens, levels = inputs.flatten(0, -2).float(), self.levels
        scale = tokens.abs().amax(dim=1, keepdim=True).clamp(min=TINY) / levels.largest
        values = tokens * (1 / scale)
        if levels.dtype == torch.int8:
            values = values.round()
        quantized = values.clamp(levels.lowest, levels.highest).to(levels.dtype)
        return self._product(quantized, scale, inputs.dtype).reshape(*inputs.shape[:-1], -1)

    def _product(self, tokens: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Quantized tokens (N, in) and their scales, float32 (N, 1), to `dtype` (N, out)."""
        if self.levels.dtype == torch.int8:
            scaled = torch._int_mm(tokens, self.weight.t()).float() * scale * self.scale
            return (scaled if self.bias is None else scaled + self.bias).to(dtype)
        output: Tensor = torch._scaled_mm(
            tokens,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale[None],
            bias=None if self.bias is None else self.bias.to(dtype),
            out_dtype=dtype,
            use_fast_accum=True,
        )
        return output


class WeightOnlyLinear(nn.Module):
    """INT8 or FP8 weights; they are turned into the inputs' type when the layer runs, and thrown away again.

    Args:
        weight: INT8 or FP8 (out, in).
        scale: floating point (out,).
        bias: floating point (out,), or None.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """FP16 or BF16 (…, in) to the same type (…, out)."""
        output = F.linear(inputs, self.weight.to(inputs.dtype)).mul_(self.scale.to(inputs.dtype))
        return output if self.bias is None else output.add_(self.bias.to(inputs.dtype))


class Smoothed(nn.Module):
    """(x - centre) × inverse: the smoothing of fc2's input, where timm has a norm or nothing.

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
        """Float32 (…, K), alike."""
        return (x - self.centre).mul_(self.inverse)
