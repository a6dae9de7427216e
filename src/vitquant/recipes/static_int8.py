"""Static quantization, compiled: INT8 weights per channel, activations by scales fixed from calibration images.

The scheme and the kernels are those of PyTorch's export quantization for x86 (PT2E with the X86 Inductor quantizer):
a linear layer's input becomes UINT8, asymmetric, per tensor; oneDNN multiplies integers and gives FP32. The layer is
written out here as it calls oneDNN, so that no pattern has to be found in the graph.

An input's range is from the least to the greatest value that calibration saw. A histogram observer, which clips what
is rare to lose less on average, is far worse here: a ViT's rare great activations carry its result.

Without VNNI oneDNN adds two products in 16 bits, which inputs of 8 bits overflow: there they have 7.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant.artifact import Artifact, unfinished
from vitquant.engines import inductor
from vitquant.errors import UnsupportedError
from vitquant.models.loading import empty_model, fill, load_model
from vitquant.params import Section
from vitquant.predictor import write_weights
from vitquant.quantization.layers import replace_linear
from vitquant.quantization.observe import Ranges, observe
from vitquant.traits import Traits

BATCH = 8  # calibration images at once


class Options(Section):
    """None."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    return Traits(weight_bits=8, activation_bits=8, arithmetic="int8", execution="compiled", devices=("cpu",))


class StaticInt8Linear(nn.Module):
    """A linear layer on integers.

    weight INT8 (out, in), symmetric over -127 … 127, scale FP32 (out,); the input's scale FP32 (), zero point INT64 ()
    and highest value INT64 (), 255 or 127, above 0.
    """

    weight: Tensor
    scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    input_highest: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, input_scale: Tensor, input_zero_point: Tensor) -> None:
        super().__init__()
        scale = (layer.weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).eps)
        self.register_buffer("weight", (layer.weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("input_scale", input_scale)
        self.register_buffer("input_zero_point", input_zero_point)
        self.register_buffer("input_highest", torch.tensor(highest()))
        self.register_buffer("bias", layer.bias)
        self.numbers, self.highest = (1.0, 0), highest()

    def read_numbers(self) -> None:
        """Take the input's scale and zero point out of their tensors, as oneDNN wants them.

        Raises:
            UnsupportedError: the inputs have 8 bits, which this CPU would sum wrongly.
        """
        self.numbers = self.input_scale.item(), int(self.input_zero_point.item())
        self.highest = int(self.input_highest.item())
        if self.highest > highest():
            raise UnsupportedError("it was made on a CPU with VNNI, which this one lacks: quantize again here")

    def forward(self, inputs: Tensor) -> Tensor:
        """FP32 (…, in) to FP32 (…, out)."""
        onednn: Any = torch.ops.onednn
        integers = (inputs / self.numbers[0]).round() + self.numbers[1]
        output: Tensor = onednn.qlinear_pointwise(
            integers.clamp(0, self.highest).to(torch.uint8),
            *self.numbers,
            onednn.qlinear_prepack(self.weight, None),
            self.scale,
            torch.zeros_like(self.scale, dtype=torch.int64),
            self.bias,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return output


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Observe the inputs of the linear layers on the calibration images, quantize, and compile."""
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise UnsupportedError("this build of PyTorch lacks oneDNN's INT8 kernels, which it has on x86-64")
    model = load_model(fp32)
    layers = {layer: f"backbone.{name}" for name, layer in model.backbone.named_modules()}
    names = [name for layer, name in layers.items() if isinstance(layer, nn.Linear)]
    images = fp32.spec.preprocessing.normalise(torch.from_numpy(calibration))
    seen = observe(model, images.split(BATCH), names, Ranges)

    def quantized(layer: nn.Linear) -> StaticInt8Linear:
        ranges = seen[layers[layer]]
        return StaticInt8Linear(layer, *input_parameters(ranges.lowest.min(), ranges.highest.max()))

    replace_linear(model, quantized)
    write_weights(directory, model.state_dict())
    inductor.load(unfinished(fp32.spec, directory, "static_int8", options), module)
    return {"calibration_images": len(calibration)}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The compiled function, from the cache or compiled now."""
    return inductor.load(artifact, module)


def module(artifact: Artifact) -> nn.Module:
    """What is compiled."""
    unset = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    model = replace_linear(empty_model(artifact), lambda layer: StaticInt8Linear(layer, *unset))
    fill(model, artifact)
    for layer in model.modules():
        if isinstance(layer, StaticInt8Linear):
            layer.read_numbers()
    return model


def highest() -> int:
    """Of the quantized inputs, which begin at 0."""
    return 255 if torch.cpu._is_vnni_supported() else 127


def input_parameters(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale, float32 (), and zero point, int64 (), that map low … high, and zero exactly, onto 0 … `highest`."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / highest()).clamp(min=torch.finfo(torch.float32).eps)
    return scale, (-low / scale).round().to(torch.int64)
