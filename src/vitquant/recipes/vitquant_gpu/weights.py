"""From the FP32 classifier to the tensors of an artifact, and what an artifact must hold."""

import math
from typing import Any

import torch
from torch import Tensor

from vitquant.errors import UnsupportedError
from vitquant.models.vit import ViTClassifier
from vitquant.quantization import folding, rounding, smoothing
from vitquant.quantization.families import LAYERS
from vitquant.quantization.layers import FLOAT8, TINY
from vitquant.quantization.observe import Ranges, observe
from vitquant.quantization.smoothing import Smoothing
from vitquant.recipes.vitquant_gpu.shape import Shape

TYPES = {"int8": torch.int8, "float8": FLOAT8, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOP = {"int8": 127.0, "float8": 448.0}
"""What the largest magnitude becomes."""
MARGIN = {"int8": 1.0, "float8": 4.0}
"""Room above the calibration images' largest value, of a static scale: FP8's precision does not suffer from it."""
MOST = 30000.0
"""That the residual stream may reach on calibration images: FP16 ends at 65,504."""
NORMS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")


def quantize(
    model: ViTClassifier, images: Tensor, number: str, *, static: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the artifact, and what smoothing chose; the model is changed.

    INT8 is smoothed and rounded by GPTQ. FP8 is not: a value's error is relative to it, and centres would add to it.

    Args:
        images: of calibration, preprocessed, float32 (N, 3, H, W).
        number: a key of TYPES.
        static: scales of attention's and GELU's outputs are fixed here.

    Raises:
        UnsupportedError: the residual stream does not fit into FP16.
    """
    if number != "bfloat16":
        _check_residuals(model, images)
    chosen: dict[str, Smoothing] = {}
    moments: dict[str, Tensor] = {}
    if number == "int8":
        chosen, moments = smoothing.smooth(model, images, per_token=True)
        largest = {name: own.largest for name, own in chosen.items()}
    else:
        largest = _largest(model, images, ("attn.proj", "mlp.fc2") if number == "float8" and static else ())
    tensors: dict[str, Tensor] = {}
    for index, block in enumerate(model.backbone.blocks):
        path = f"backbone.blocks.{index}"
        folding.fold_scales(block, math.log2(math.e))  # for a softmax in base 2
        steps = {"attn.proj": 1.0, "mlp.fc2": 1.0}
        if number in TOP:
            if static:
                steps = {name: MARGIN[number] * largest[f"{path}.{name}"] / TOP[number] for name in steps}
                tensors[f"{path}.attn.multiplier"] = torch.tensor([1 / steps["attn.proj"]])
            tensors |= _after_gelu(path, block, chosen.get(f"{path}.mlp.fc2"), steps["mlp.fc2"])
        tensors |= {f"{path}.{name}": block.get_parameter(name) for name in NORMS}
        for layer in LAYERS:
            name, own = f"{path}.{layer}", block.get_submodule(layer)
            tensors |= _layer(name, own, number, moments.pop(name, None), steps.get(layer, 1.0))
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.blocks.")}
    details = {"smoothing_strengths": {name: own.strength for name, own in chosen.items()}} if chosen else {}
    return {name: tensor.detach().cpu() for name, tensor in (rest | tensors).items()}, details


def expected(model: ViTClassifier, number: str, *, static: bool) -> dict[str, Tensor]:
    """Tensors of the names, shapes and types that `quantize` gives, without memory."""
    state = model.state_dict()
    tensors = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.blocks.")}
    for index, block in enumerate(model.backbone.blocks):
        path, hidden = f"backbone.blocks.{index}", block.get_submodule("mlp.fc1").weight[:, 0]
        if number in TOP:
            tensors |= {f"{path}.mlp.multiplier": hidden, f"{path}.mlp.offset": hidden}
            if static:
                tensors[f"{path}.attn.multiplier"] = hidden[:1]
        tensors |= {f"{path}.{name}": state[f"{path}.{name}"] for name in NORMS}
        for layer in LAYERS:
            weight = state[f"{path}.{layer}.weight"]
            tensors |= {f"{path}.{layer}.weight": weight.to(TYPES[number]), f"{path}.{layer}.bias": weight[:, 0]}
            if number in TOP:
                tensors[f"{path}.{layer}.scale"] = weight[:, 0]
    return tensors


def positions(model: ViTClassifier, shape: Shape) -> Tensor:
    """What each token starts with, float32 (tokens, width): its position, and of the first ones also the token."""
    return folding.positions(model.backbone, torch.zeros(shape.width))[0][0].detach()


def _after_gelu(path: str, block: Any, own: Smoothing | None, step: float) -> dict[str, Tensor]:
    """What makes GELU's output fc2's 8-bit input: a factor and a summand for each hidden column."""
    zeros = torch.zeros_like(block.mlp.fc1.weight[:, 0])
    centre, scale = (zeros, zeros + 1) if own is None else (own.centre, own.scale)
    multiplier = 1 / (scale * step)
    return {f"{path}.mlp.multiplier": multiplier, f"{path}.mlp.offset": -centre * multiplier}


def _largest(model: ViTClassifier, images: Tensor, layers: tuple[str, ...]) -> dict[str, float]:
    """The largest magnitude that each of these parts of every block sees."""
    names = [f"backbone.blocks.{index}.{layer}" for index in range(len(model.backbone.blocks)) for layer in layers]
    seen = observe(model, images.split(smoothing.BATCH), names, Ranges) if names else {}
    return {name: float(torch.maximum(own.highest, -own.lowest).max()) for name, own in seen.items()}


def _check_residuals(model: ViTClassifier, images: Tensor) -> None:
    largest = max(_largest(model, images[: smoothing.BATCH], ("norm1", "norm2")).values())
    if largest > MOST:
        raise UnsupportedError(f"the residual stream reaches {largest:.0f}, too much for FP16: use format: bfloat16")


def _layer(name: str, layer: Any, number: str, moment: Tensor | None, step: float) -> dict[str, Tensor]:
    """A layer's tensors; its inputs come in steps of `step`."""
    bias = layer.bias if layer.bias is not None else torch.zeros_like(layer.weight[:, 0])
    if number not in TOP:
        return {f"{name}.weight": layer.weight.to(TYPES[number]), f"{name}.bias": bias}
    if moment is not None:
        scale = rounding.scales(layer.weight)
        values = rounding.gptq(layer.weight, scale, moment)
    else:
        scale = layer.weight.abs().amax(dim=1).clamp(min=TINY) / TOP[number]
        values = (layer.weight / scale[:, None]).to(TYPES[number])
    return {f"{name}.weight": values, f"{name}.scale": scale * step, f"{name}.bias": bias}
