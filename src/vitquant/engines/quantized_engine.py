"""PyTorch's quantized engine: which kernels multiply, and INT8 weights packed for them."""

import platform
import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as nnqd

from vitquant.artifact import Artifact
from vitquant.errors import UnsupportedError
from vitquant.models.loading import check_tensors
from vitquant.models.vit import ViTClassifier
from vitquant.predictor import read_weights

Engine = Literal["auto", "x86", "onednn", "fbgemm", "qnnpack"]


def use_engine(wanted: Engine) -> str:
    """Select PyTorch's quantized engine and return its name.

    `auto` takes `x86` on x86-64, which itself picks oneDNN with VNNI and FBGEMM without, and `qnnpack` on Arm.

    Raises:
        UnsupportedError: this build of PyTorch has no such engine.
    """
    machine = platform.machine().lower()
    preferred = ["x86", "fbgemm", "onednn"] if machine in ("x86_64", "amd64") else ["qnnpack", "onednn"]
    supported = torch.backends.quantized.supported_engines
    for engine in preferred if wanted == "auto" else [wanted]:
        if engine in supported:
            torch.backends.quantized.engine = engine
            return engine
    raise UnsupportedError(f"PyTorch has no quantized engine {wanted!r} on {machine}: it has {', '.join(supported)}")


def restore(model: ViTClassifier, artifact: Artifact, linear: type[nnqd.Linear]) -> ViTClassifier:
    """Fill a model without memory; the integer weights are packed into layers of the type `linear`.

    The artifact holds a quantized layer as weight (INT8), scale, zero_point and, where it has one, bias.

    Raises:
        VitquantError: its tensors are not the model's by name, shape and type.
    """
    tensors = read_weights(artifact.path)
    linears = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    quantized = {name for name in linears if f"{name}.scale" in tensors}
    expected = model.state_dict()
    for name in quantized:
        integers = expected[f"{name}.weight"].to(torch.int8)
        expected[f"{name}.weight"] = integers
        if tensors[f"{name}.scale"].ndim:  # per channel
            scale, zero_point = integers[:, 0].float(), integers[:, 0]
        else:
            scale, zero_point = torch.empty((), dtype=torch.float64), torch.empty((), dtype=torch.int64)
        expected |= {f"{name}.scale": scale, f"{name}.zero_point": zero_point}
    check_tensors(artifact, tensors, expected)
    # copies: with the integers packed, nothing then holds the mapped file
    tensors = {key: tensor if tensor.dtype == torch.int8 else tensor.clone() for key, tensor in tensors.items()}
    floats = {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[0] not in quantized}
    model.load_state_dict(floats, strict=False, assign=True)
    for name in quantized:
        weight = quantized_tensor(*(tensors[f"{name}.{part}"] for part in ("weight", "scale", "zero_point")))
        layer = linear(weight.shape[1], weight.shape[0])
        layer.set_weight_bias(weight, tensors.get(f"{name}.bias"))
        model.set_submodule(name, layer)
    return model


def quantized_tensor(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The quantized tensor with exactly these integers, INT8 (N, K): nothing is rounded again.

    Args:
        scale: (N,), per channel, or (), per tensor.
        zero_point: likewise.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per", UserWarning)
        if scale.ndim:
            return torch._make_per_channel_quantized_tensor(integers, scale.double(), zero_point.long(), 0)
        return torch._make_per_tensor_quantized_tensor(integers, scale.item(), int(zero_point.item()))
