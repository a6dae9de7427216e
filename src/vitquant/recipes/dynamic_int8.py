"""PyTorch dynamic quantization: INT8 weights, activations quantized at run time, per tensor.

The linear layers go through `torch.ao.quantization.quantize_dynamic`; embeddings, norms and LayerScale stay
FP32. The artifact keeps each layer's INT8 weight, scales and zero points, not the packed form, so that it
runs on any CPU: the weights are packed for the engine at hand when they are loaded.
"""

import fnmatch
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as nnqd
from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

from vitquant.artifact import Artifact
from vitquant.engines.quantized_engine import Engine, restore, use_engine
from vitquant.errors import VitquantError
from vitquant.models.loading import empty_model, load_model
from vitquant.params import Section
from vitquant.predictor import write_weights
from vitquant.traits import Traits


class Options(Section):
    """What params.yaml may say of this recipe."""

    per_channel: bool
    """One weight scale per output channel, or one per tensor."""
    keep_float: list[str]
    """Globs over the names of linear layers that stay FP32."""
    engine: Engine
    """The kernels that multiply; auto takes what suits the CPU."""


def traits(options: Options) -> Traits:
    """PyTorch has no CUDA kernels for dynamically quantized layers."""
    return Traits(
        weight_bits=8,
        activation_bits=8,
        arithmetic="int8",
        execution="eager",
        devices=("cpu",),
        batch_scales=True,
    )


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Quantize the linear layers and write their integer weights."""
    engine = use_engine(options.engine)
    model = load_model(fp32)
    names = layers_to_quantize(model, options.keep_float)
    qconfig = per_channel_dynamic_qconfig if options.per_channel else default_dynamic_qconfig
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of torch.ao.quantization, as a whole
        warnings.filterwarnings("ignore", "torch.quantize_per", UserWarning)
        quantize_dynamic(model, dict.fromkeys(names, qconfig), inplace=True)
    write_weights(directory, _to_tensors(model))
    return {"engine": engine, "quantized_layers": len(names)}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Pack the integer weights for this CPU; the FP32 weights of quantized layers are never allocated."""
    use_engine(artifact.spec.options["engine"])
    return restore(empty_model(artifact), artifact, nnqd.Linear).to(device)


def layers_to_quantize(model: nn.Module, keep_float: list[str]) -> list[str]:
    """The names of the linear layers that no glob keeps in floating point.

    Raises:
        VitquantError: a glob that matches no linear layer, or none left to quantize.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for glob in keep_float:
        if not fnmatch.filter([*linear, "head"], glob):  # of embeddings there is none
            raise VitquantError(f"keep_float: {glob!r} matches no linear layer; they are named like {linear[0]!r}")
    names = [name for name in linear if not any(fnmatch.fnmatchcase(name, glob) for glob in keep_float)]
    if not names:
        raise VitquantError(f"keep_float: {keep_float} leaves no linear layer to quantize")
    return names


def _to_tensors(model: nn.Module) -> dict[str, Tensor]:
    """FP32 tensors under their own names; a quantized layer as weight (INT8), scale, zero_point and bias."""
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, layer in model.named_modules():
        if not isinstance(layer, nnqd.Linear):
            continue
        weight = layer.weight()
        per_channel = weight.qscheme() == torch.per_channel_affine
        tensors[f"{name}.weight"] = weight.int_repr()
        tensors[f"{name}.scale"] = (
            weight.q_per_channel_scales().float()
            if per_channel
            else torch.tensor(weight.q_scale(), dtype=torch.float64)
        )
        tensors[f"{name}.zero_point"] = (
            weight.q_per_channel_zero_points().to(torch.int8) if per_channel else torch.tensor(weight.q_zero_point())
        )
        if layer.bias() is not None:
            tensors[f"{name}.bias"] = layer.bias()
    return {name: tensor.detach() for name, tensor in tensors.items()}
