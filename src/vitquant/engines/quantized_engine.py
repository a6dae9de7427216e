"""PyTorch's quantized engine: which kernels multiply, and INT8 weights packed for them."""

import platform
import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as nnqd

from vitquant.artifact import Artifact, read_weights
from vitquant.errors import UnsupportedError
from vitquant.models.loading import empty_model

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


def restore(artifact: Artifact, linear: type[nnqd.Linear]) -> nn.Module:
    """The model in evaluation mode, its integer weights packed into layers of the type `linear`.

    The artifact holds a quantized layer as weight (INT8), scale, zero_point and, where it has one, bias.
    """
    tensors = read_weights(artifact.path)
    quantized = {key.removesuffix(".scale") for key in tensors if key.endswith(".scale")}
    model = empty_model(artifact)
    floats = {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[0] not in quantized}
    model.load_state_dict(floats, strict=False, assign=True)
    for name in quantized:
        weight = quantized_tensor(*(tensors[f"{name}.{part}"] for part in ("weight", "scale", "zero_point")))
        layer = linear(weight.shape[1], weight.shape[0])
        layer.set_weight_bias(weight, tensors.get(f"{name}.bias"))
        model.set_submodule(name, layer)
    return model.eval()


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
