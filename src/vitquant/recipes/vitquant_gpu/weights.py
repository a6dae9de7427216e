"""From the FP32 classifier to the tensors of an artifact, and what an artifact must hold."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vitquant.models.vit import ViTClassifier
from vitquant.quantization import rounding, smoothing
from vitquant.quantization.layers import FLOAT8, TINY
from vitquant.quantization.smoothing import LAYERS, Smoothing
from vitquant.recipes.vitquant_gpu.shape import Shape

TYPES = {"int8": torch.int8, "float8": FLOAT8, "bfloat16": torch.bfloat16}
TOP = {"int8": 127.0, "float8": 448.0}
"""What the largest magnitude becomes."""
MARGIN = {"int8": 1.0, "float8": 4.0}
"""Room above the calibration images' largest value, of a static scale: FP8's precision does not suffer from it."""
NORMS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")


def quantize(model: ViTClassifier, images: Tensor, number: str, *, static: bool) -> tuple[dict[str, Tensor], Any]:
    """The tensors of the artifact, and what smoothing chose; the model is changed.

    Args:
        images: of calibration, preprocessed, float32 (N, 3, H, W).
        number: a key of TYPES.
        static: scales of attention's and GELU's outputs are fixed here.
    """
    chosen: dict[str, Smoothing] = {}
    moments: dict[str, Tensor] = {}
    if number != "bfloat16":
        chosen, moments = smoothing.smooth(model, images, per_token=not static)
    tensors: dict[str, Tensor] = {}
    for index, block in enumerate(model.backbone.blocks):
        path = f"backbone.blocks.{index}"
        fold_scales(block)
        steps: dict[str, float | Tensor] = {}
        if chosen:
            proj, fc2 = chosen[f"{path}.attn.proj"], chosen[f"{path}.mlp.fc2"]
            if static:
                steps = {name: MARGIN[number] * own.largest / TOP[number] for name, own in _static(proj, fc2)}
                tensors[f"{path}.attn.multiplier"] = torch.tensor([1 / steps["attn.proj"]])
            multiplier = 1 / fc2.scale / steps.get("mlp.fc2", 1.0)
            tensors |= {f"{path}.mlp.multiplier": multiplier, f"{path}.mlp.offset": -fc2.centre * multiplier}
        tensors |= {f"{path}.{name}": block.get_parameter(name) for name in NORMS}
        for layer in LAYERS:
            name, own = f"{path}.{layer}", block.get_submodule(layer)
            tensors |= _layer(name, own, number, moments.pop(name, None), steps.get(layer, 1.0))
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.blocks.")}
    details = {"smoothing_strengths": {name: own.strength for name, own in chosen.items()}}
    return {name: tensor.detach().cpu() for name, tensor in (rest | tensors).items()}, details


def expected(model: ViTClassifier, number: str, *, static: bool) -> dict[str, Tensor]:
    """Tensors of the names, shapes and types that `quantize` gives, without memory."""
    state = model.state_dict()
    tensors = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.blocks.")}
    for index, block in enumerate(model.backbone.blocks):
        path, hidden = f"backbone.blocks.{index}", block.get_submodule("mlp.fc1").weight[:, 0]
        if number != "bfloat16":
            tensors |= {f"{path}.mlp.multiplier": hidden, f"{path}.mlp.offset": hidden}
            if static:
                tensors[f"{path}.attn.multiplier"] = hidden[:1]
        tensors |= {f"{path}.{name}": state[f"{path}.{name}"] for name in NORMS}
        for layer in LAYERS:
            weight = state[f"{path}.{layer}.weight"]
            tensors |= {f"{path}.{layer}.weight": weight.to(TYPES[number]), f"{path}.{layer}.bias": weight[:, 0]}
            if number != "bfloat16":
                tensors[f"{path}.{layer}.scale"] = weight[:, 0]
    return tensors


def positions(model: ViTClassifier, shape: Shape) -> Tensor:
    """What each token starts with, float32 (tokens, width): its position, and of the first ones also the token."""
    backbone: Any = model.backbone
    across = backbone.patch_embed.grid_size
    zeros = torch.zeros(1, *across, shape.width) if backbone.dynamic_img_size else torch.zeros(1, shape.patches, shape.width)
    table: Tensor = backbone._pos_embed(zeros)[0]
    return table.detach()


def fold_scales(block: Any) -> None:
    """Fold the queries' factor, log₂(e) / √head for a softmax in base 2, and LayerScale into weights, in place."""
    attention = block.attn
    queries = slice(None, attention.qkv.out_features // 3)
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        parameter[queries] *= math.log2(math.e) * attention.head_dim**-0.5
    for layer, scale in ((attention.proj, block.ls1), (block.mlp.fc2, block.ls2)):
        if not isinstance(scale, nn.Identity):
            layer.weight *= scale.gamma[:, None]
            layer.bias *= scale.gamma


def _static(proj: Smoothing, fc2: Smoothing) -> list[tuple[str, Smoothing]]:
    return [("attn.proj", proj), ("mlp.fc2", fc2)]


def _layer(name: str, layer: Any, number: str, moment: Tensor | None, step: float | Tensor) -> dict[str, Tensor]:
    """A layer's tensors; its inputs come in steps of `step`."""
    bias = layer.bias if layer.bias is not None else torch.zeros_like(layer.weight[:, 0])
    if number == "bfloat16":
        return {f"{name}.weight": layer.weight.bfloat16(), f"{name}.bias": bias}
    if number == "int8":
        scale = rounding.scales(layer.weight)
        values = rounding.nearest(layer.weight, scale) if moment is None else rounding.gptq(layer.weight, scale, moment)
    else:
        scale = layer.weight.abs().amax(dim=1).clamp(min=TINY) / TOP[number]
        values = (layer.weight / scale[:, None]).to(FLOAT8)
    return {f"{name}.weight": values, f"{name}.scale": scale * step, f"{name}.bias": bias}
