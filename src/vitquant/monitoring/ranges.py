"""Which values the served artifact would clip: scales that calibration fixed hold for what it saw, not for more.

A share that grows says that the inputs changed, never that accuracy fell.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vitquant.artifact import WEIGHTS_FILE, Artifact
from vitquant.monitoring import openvino_ranges

if TYPE_CHECKING:
    from torch import Tensor, nn  # which the server does without

Range = NDArray[np.float32]
"""The lowest and the highest value, of each channel, (2, C), or of all, (2, 1)."""
SCALE, ZERO_POINT, HIGHEST = "input_scale", "input_zero_point", "input_highest"


def calibrated(artifact: Artifact, fp32: Artifact) -> dict[str, Range]:
    """What the quantized linear layers of an artifact take, by name; nothing where it is not fixed, or they are gone.

    A layer takes integers, of a lowest and a highest. A range ends half a step beyond those: until there values are
    rounded, as all are, and not clipped.

    Args:
        fp32: what it was made of; a graph's layers are told by its weights.
    """
    try:
        if artifact.spec.method == "static_int8":
            return _static_int8(artifact.path / WEIGHTS_FILE)
        if artifact.spec.method == "openvino":
            return openvino_ranges.read(artifact.path, fp32.path / WEIGHTS_FILE)
    except (SafetensorError, ParseError, OSError):  # it was replaced since it was opened
        pass
    return {}


def _static_int8(weights: Path) -> dict[str, Range]:
    """A layer's integers begin with 0."""
    with safe_open(weights, "numpy") as file:
        names = [key.removesuffix(f".{SCALE}") for key in file.keys() if key.endswith(f".{SCALE}")]  # noqa: SIM118

        def ends(name: str) -> Range:
            scale, zero_point, highest = (
                file.get_tensor(f"{name}.{part}").item() for part in (SCALE, ZERO_POINT, HIGHEST)
            )
            return np.array([[-0.5 - zero_point], [highest + 0.5 - zero_point]], np.float32) * np.float32(scale)

        return {name: ends(name) for name in names}


class Counter:
    """Counts what enters the linear layers of a model, in FP32, and lies outside of other models' ranges."""

    def __init__(self, model: "nn.Module") -> None:
        self._ranges: Mapping[str, Range] = {}
        self._outside = self._all = 0
        for name, layer in model.named_modules():
            if hasattr(layer, "in_features"):
                layer.register_forward_pre_hook(lambda _, given, name=name: self._count(name, given[0]))

    def begin(self, ranges: Mapping[str, Range]) -> None:
        """Count from 0, by these ranges, what the model is given from now on."""
        self._ranges, self._outside, self._all = ranges, 0, 0

    @property
    def share(self) -> float:
        """Outside, of all values since then; NaN where there were none."""
        return self._outside / self._all if self._all else float("nan")

    def _count(self, name: str, values: "Tensor") -> None:
        if name in self._ranges:
            low, high = values.new_tensor(self._ranges[name])
            outside: Any = (values < low) | (values > high)
            self._outside += int(outside.sum())
            self._all += values.numel()
