"""Dynamic INT8 after smoothing: SmoothQuant with centred channels, weights per channel rounded by GPTQ.

As in `dynamic_int8`, activations have one scale per tensor, taken at run time. Smoothing evens out their channels
first: it is folded into LayerNorm (qkv, fc1) and into the value rows of qkv (proj), where it costs nothing, and
multiplied into the activation function's results (fc2), which no linear layer precedes. The class token, which the
classifier reads, is multiplied once more by itself, in two parts of 8 bits each; so is the first patch where there is
no class token.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as nnqd

from vitquant.artifact import Artifact
from vitquant.engines.quantized_engine import Engine, restore, use_engine
from vitquant.models.loading import empty_model, load_model
from vitquant.params import Section
from vitquant.predictor import write_weights
from vitquant.quantization import families, rounding, smoothing
from vitquant.quantization.layers import Smoothed
from vitquant.traits import Traits


class Options(Section):
    """What params.yaml may say of this recipe."""

    engine: Engine
    """The kernels that multiply; auto takes what suits the CPU."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    return Traits(
        weight_bits=8,
        activation_bits=8,
        arithmetic="int8",
        execution="eager",
        devices=("cpu",),
        batch_scales=True,
    )


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Observe, smooth, round and write the integer weights."""
    use_engine(options.engine)
    model = load_model(fp32)
    images = fp32.spec.preprocessing.normalise(torch.from_numpy(calibration))
    chosen, moments = smoothing.smooth(model, images, per_token=False)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.rpartition(".")[0] not in moments}
    for name, moment in moments.items():
        layer: Any = model.get_submodule(name)
        scale = rounding.scales(layer.weight)
        tensors[f"{name}.weight"] = rounding.gptq(layer.weight, scale, moment)
        tensors[f"{name}.scale"] = scale
        tensors[f"{name}.zero_point"] = torch.zeros(len(scale), dtype=torch.int8)
        tensors[f"{name}.bias"] = layer.bias
        block = model.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
        if name.endswith("mlp.fc2") and not isinstance(block.mlp.norm, nn.LayerNorm):
            centre, inverse = smoothing.left_to_activation(block, chosen[name])
            path = name.removesuffix("fc2")
            tensors[f"{path}norm.centre"], tensors[f"{path}norm.inverse"] = centre, inverse
    write_weights(directory, {name: tensor.detach() for name, tensor in tensors.items()})
    return {"smoothing_strengths": {name: smoothing.strength for name, smoothing in chosen.items()}}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Pack the integer weights for this CPU."""
    use_engine(artifact.spec.options["engine"])
    model: Any = empty_model(artifact)
    families.simplify(model)
    for block in model.backbone.blocks:
        if not isinstance(block.mlp.norm, nn.LayerNorm):
            block.mlp.norm = Smoothed(*(block.mlp.fc2.weight[0].clone() for _ in range(2)))
    return restore(model, artifact, FineClassTokenLinear)


class FineClassTokenLinear(nnqd.Linear):
    """A dynamically quantized layer that takes the class token, one row of hundreds, in twice the bits.

    All tokens share one scale, but the class token's results are replaced: it has a scale of its own, and what rounding
    to that takes off it is multiplied as well, by a scale 255 times finer (but not below PyTorch's finest, 6.1e-5).

    Activations use all 8 bits where the CPU has VNNI. PyTorch's own layer uses 7, since without VNNI the products are
    summed in pairs, in 16 bits, which 8 could overflow.
    """

    def set_weight_bias(self, w: Tensor, b: Tensor | None) -> None:
        """Pack int8 weights (N, K) and the bias, float32 (N,)."""
        super().set_weight_bias(w, b)
        self.offset = torch.zeros(len(w)) if b is None else b

    def forward(self, x: Tensor) -> Tensor:
        """Float32 (images, tokens, K), the class token first, to float32 (images, tokens, N)."""
        reduce_range = not torch.cpu._is_vnni_supported()

        def linear(rows: Tensor) -> Tensor:
            result: Tensor = torch.ops.quantized.linear_dynamic(rows, self._packed_params._packed_params, reduce_range)
            return result

        result, token = linear(x), x[:, 0]
        rounded = torch.quantize_per_tensor_dynamic(token, torch.quint8, reduce_range).dequantize()  # as linear does
        result[:, 0] = linear(token) + (linear(token - rounded) - self.offset)
        return result
