"""INT8 end to end: smoothed, GPTQ-rounded weights, per-token activations, and fused kernels of our own.

Every linear layer of the blocks multiplies INT8 weights (per-channel scales) by 8-bit activations (per-token scales).
It is one kernel with what follows it (attention, GELU, or the residual sum and LayerNorm) and with the quantization of
the next layer's input. Smoothing costs nothing at run time: it is folded into LayerNorm, into the value rows of qkv,
and into the GELU kernel. The class token, which the classifier reads, is quantized as a high and a low part.
docs/vitquant-int8.md has what each step gave.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, read_weights, write_weights
from vitquant.errors import UnsupportedError
from vitquant.models.loading import check_tensors, empty_model, load_model
from vitquant.models.vit import ViTClassifier
from vitquant.params import Section
from vitquant.quantization import rounding, smoothing
from vitquant.quantization.rounding import sums_of_four
from vitquant.quantization.smoothing import LAYERS
from vitquant.recipes.vitquant_int8.kernels import Kernels, Linear, Quantized, largest_weight_sum
from vitquant.traits import Traits

FLOATS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "mlp.centre", "mlp.inverse")


class Options(Section):
    """None: what is best is what it does."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    return Traits(weight_bits=8, activation_bits=8, arithmetic="int8", execution="compiled", devices=("cpu",))


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Observe, smooth, round and write the integer weights."""
    model = load_model(fp32)
    images = fp32.spec.preprocessing.normalise(torch.from_numpy(calibration))
    chosen, moments = smoothing.smooth(model, images, per_token=True)
    tensors: dict[str, Tensor] = {}
    for index, block in enumerate(model.backbone.blocks):
        path = f"backbone.blocks.{index}"
        _fold_scales(block)
        fc2 = chosen[f"{path}.mlp.fc2"]
        tensors[f"{path}.mlp.centre"], tensors[f"{path}.mlp.inverse"] = fc2.centre, 1 / fc2.scale
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                tensors[f"{path}.{norm}.{part}"] = getattr(block.get_submodule(norm), part)
        for layer in LAYERS:
            name = f"{path}.{layer}"
            tensors |= _quantize(name, block.get_submodule(layer), moments.pop(name))
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.blocks.")}
    write_weights(directory, {name: tensor.detach() for name, tensor in (rest | tensors).items()})
    Kernels()  # compiled now, and not when it is first loaded
    return {"smoothing_strengths": {name: smoothing.strength for name, smoothing in chosen.items()}}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Pack the integer weights for this CPU.

    Raises:
        VitquantError: the artifact's tensors are not what the architecture needs.
        UnsupportedError: they were rounded for a CPU with VNNI, and this one would sum them wrongly.
    """
    model, tensors = empty_model(artifact), read_weights(artifact.path)
    check_tensors(artifact, tensors, _expected(model))
    most = largest_weight_sum()
    if most and any(sums_of_four(weight).max() > most for weight in tensors.values() if weight.dtype == torch.int8):
        raise UnsupportedError(
            f"{artifact.path} was made on a CPU with VNNI, which this one lacks: quantize again here"
        )
    tensors = {name: tensor if tensor.dtype == torch.int8 else tensor.clone() for name, tensor in tensors.items()}
    backbone: Any = model.backbone  # with the last weight packed, nothing holds the mapped file
    backbone.blocks = nn.Sequential(Int8Blocks(tensors, [_shape(block) for block in backbone.blocks]))
    model.load_state_dict(tensors, strict=False, assign=True)
    return model


def _expected(model: ViTClassifier) -> dict[str, Tensor]:
    """Tensors of the names, shapes and types that `build` writes."""
    state = model.state_dict()
    expected = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.blocks.")}
    for index, block in enumerate(model.backbone.blocks):
        path, hidden = f"backbone.blocks.{index}", block.get_submodule("mlp.fc1").weight[:, 0]
        expected |= {f"{path}.mlp.centre": hidden, f"{path}.mlp.inverse": hidden}
        expected |= {f"{path}.{name}": state[f"{path}.{name}"] for name in FLOATS if name.startswith("norm")}
        for layer in LAYERS:
            weight = state[f"{path}.{layer}.weight"]
            expected |= {f"{path}.{layer}.weight": weight.to(torch.int8)}
            expected |= {f"{path}.{layer}.{part}": weight[:, 0] for part in ("scale", "bias")}
    return expected


def _shape(block: Any) -> tuple[int, float, float]:
    return block.attn.num_heads, block.norm1.eps, block.norm2.eps


class Int8Blocks(nn.Module):
    """All blocks of the ViT.

    Args:
        tensors: what `build` wrote.
        shapes: of each block the number of heads and the two LayerNorms' epsilons.
    """

    def __init__(self, tensors: dict[str, Tensor], shapes: list[tuple[int, float, float]]) -> None:
        super().__init__()
        self.kernels = Kernels()
        self.shapes = shapes
        self.layers = [
            {layer: self._linear(tensors, f"backbone.blocks.{index}.{layer}") for layer in LAYERS}
            for index in range(len(shapes))
        ]
        self.floats = [
            {key: tensors[f"backbone.blocks.{index}.{key}"] for key in FLOATS} for index in range(len(shapes))
        ]

    def _linear(self, tensors: dict[str, Tensor], name: str) -> Linear:
        return self.kernels.linear(*(tensors.pop(f"{name}.{part}") for part in ("weight", "scale", "bias")))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens after embedding, float32 (images, tokens, width), to tokens before the last norm, alike."""
        images, count, _ = tokens.shape
        residual = tokens.contiguous().clone()
        kernels = self.kernels
        before: Linear | None = None
        quantized: Quantized | None = None
        for (heads, epsilon1, epsilon2), layers, floats in zip(self.shapes, self.layers, self.floats, strict=True):
            qkv, proj, fc1, fc2 = (layers[name] for name in LAYERS)
            norms = [(floats[f"{norm}.weight"], floats[f"{norm}.bias"]) for norm in ("norm1", "norm2")]
            quantized = kernels.add_norm(residual, before, quantized, *norms[0], epsilon1)
            quantized = kernels.attention(qkv, quantized, heads, images, count)
            quantized = kernels.add_norm(residual, proj, quantized, *norms[1], epsilon2)
            quantized = kernels.gelu(fc1, quantized, floats["mlp.centre"], floats["mlp.inverse"], images, count)
            before = fc2
        if before and quantized:
            kernels.add(residual, before, quantized)
        return residual


def _fold_scales(block: Any) -> None:
    """Fold attention's 1/√depth into the query rows and LayerScale into proj and fc2, in place."""
    attention, depth = block.attn, block.attn.qkv.out_features // 3 // block.attn.num_heads
    queries = slice(None, attention.qkv.out_features // 3)
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        parameter[queries] *= depth**-0.5
    for layer, scale in ((attention.proj, block.ls1), (block.mlp.fc2, block.ls2)):
        if not isinstance(scale, nn.Identity):
            layer.weight *= scale.gamma[:, None]
            layer.bias *= scale.gamma


def _quantize(name: str, layer: Any, moment: Tensor) -> dict[str, Tensor]:
    most = largest_weight_sum()
    if most:
        integers, scale = rounding.gptq_within(layer.weight, moment, most)
    else:
        scale = rounding.scales(layer.weight)
        integers = rounding.gptq(layer.weight, scale, moment)
    return {f"{name}.weight": integers, f"{name}.scale": scale, f"{name}.bias": layer.bias}
