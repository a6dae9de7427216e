"""zentorch, AMD's plugin for PyTorch: BF16, or INT8 with dynamic activations, by ZenDNN's kernels.

The passes that `torch.compile(backend="zentorch")` adds run in PyTorch Inductor, ahead of time: they put zentorch's
linear layers, fused with GELU, and its attention into the graph, and lay the weights out. LayerNorm is Inductor's.
INT8 is zentorch's own operator for it: weights symmetric per channel, activations symmetric per token, at run time;
what lies between these layers is BF16, which is faster than FP32.

Importing zentorch registers operators with PyTorch and Inductor, and sets up Python's logging, for the whole process.
So nothing imports it before this method builds or loads.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, unfinished
from vitquant.engines import inductor
from vitquant.engines.require import require
from vitquant.errors import UnsupportedError
from vitquant.models.loading import CastBackbone, cast, empty_model, fill, load_model
from vitquant.params import Section
from vitquant.predictor import read_weights, write_weights
from vitquant.quantization import rounding
from vitquant.quantization.layers import DynamicLinear, replace_linear
from vitquant.traits import Traits

# AOTInductor calls operators through C functions, and zentorch has none for its attention.
ATTENTION = (
    "AOTITorchError torch_new_string_handle(const char* data, size_t length, struct StringOpaque** handle)",
    """AOTITorchError aoti_torch_cpu_zentorch_sdpa(
        AtenTensorHandle query, AtenTensorHandle key, AtenTensorHandle value, double dropout, int32_t causal,
        AtenTensorHandle* mask, double* scale, const char* name, AtenTensorHandle* output, AtenTensorHandle* sums
    ) {
        if (dropout || mask || scale) return AOTI_TORCH_FAILURE;  // no ViT has them
        AtenTensorHandle inputs[] = {query, key, value}, owned[3];  // the dispatcher keeps what it is given
        for (int i = 0; i < 3; ++i)
            if (auto error = aoti_torch_new_tensor_handle(inputs[i], &owned[i])) return error;
        struct StringOpaque* text;
        if (auto error = torch_new_string_handle(name, strlen(name), &text)) return error;
        uint64_t stack[] = {
            (uint64_t)owned[0], (uint64_t)owned[1], (uint64_t)owned[2], 0, (uint64_t)causal, 0, 0, (uint64_t)text};
        auto error = aoti_torch_call_dispatcher("zentorch::zentorch_sdpa", "", stack);
        *output = (AtenTensorHandle)stack[0];
        *sums = (AtenTensorHandle)stack[1];
        return error;
    }""",
)


class Options(Section):
    """What params.yaml may say of this recipe."""

    precision: Literal["bf16", "int8"]
    """Of the backbone's linear layers."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    if options.precision == "bf16":
        return Traits(weight_bits=16, activation_bits=16, arithmetic="bfloat16", execution="compiled", devices=("cpu",))
    return Traits(weight_bits=8, activation_bits=8, arithmetic="int8", execution="compiled", devices=("cpu",))


class ZenLinear(DynamicLinear):
    """A linear layer that zentorch quantizes the inputs of, and multiplies."""

    def forward(self, inputs: Tensor) -> Tensor:
        """FP32 or BF16 (…, in) to the same type (…, out)."""
        output: Tensor = torch.ops.zentorch.zentorch_dynamic_qlinear(inputs, self.weight, self.scale, self.bias)
        return output


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the weights in BF16 or INT8, and compile."""
    if options.precision == "bf16":
        weights = cast(read_weights(fp32.path), torch.bfloat16)
    else:
        weights = replace_linear(load_model(fp32), _quantized).state_dict()
        layers = {name.removesuffix(".scale") for name in weights if name.endswith(".scale")}
        weights |= cast(
            {name: weights[name] for name in weights if name.rpartition(".")[0] not in layers}, torch.bfloat16
        )
    write_weights(directory, weights)
    load(unfinished(fp32.spec, directory, "zentorch", options), torch.device("cpu"))
    return {"zentorch": _zentorch().__version__}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The compiled function, from the cache or compiled now."""
    preload()
    return inductor.load(artifact, module, ("zentorch",), _settings)


def preload() -> None:
    """Load zentorch's library, unless this CPU lacks what its kernels multiply with.

    Raises:
        UnsupportedError: it does, or zentorch is not installed or made for another PyTorch.
    """
    if not (torch.cpu._is_vnni_supported() and torch.cpu._is_avx512_bf16_supported()):
        raise UnsupportedError("zentorch multiplies with AVX-512, its VNNI and its BF16, which this CPU lacks")
    _zentorch()


def module(artifact: Artifact) -> nn.Module:
    """What is compiled."""
    model = empty_model(artifact, torch.bfloat16)
    if artifact.spec.options["precision"] == "int8":
        replace_linear(model, _empty)
    return CastBackbone(fill(model, artifact))


def _zentorch() -> Any:
    return require("zentorch")


def _settings() -> dict[str, Any]:
    """Inductor's, which make it run zentorch's passes and call its attention."""
    functions, attention = "aot_inductor.custom_ops_to_c_shims", torch.ops.zentorch.zentorch_sdpa.default
    known = torch._inductor.config.aot_inductor.custom_ops_to_c_shims
    return {"joint_custom_post_pass": _zentorch().optimize_pass, functions: {**known, attention: list(ATTENTION)}}


def _quantized(layer: nn.Linear) -> ZenLinear:
    scale = rounding.scales(layer.weight)
    return ZenLinear(rounding.nearest(layer.weight, scale), scale, layer.bias)


def _empty(layer: nn.Linear) -> ZenLinear:
    bias = None if layer.bias is None else layer.bias.float()
    return ZenLinear(layer.weight.to(torch.int8), layer.weight[:, 0].float(), bias)
