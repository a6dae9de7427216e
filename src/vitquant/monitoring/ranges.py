"""Which values the served artifact would clip: scales that calibration fixed hold for what it saw, not for more.

A share that grows says that the inputs changed, never that accuracy fell.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from vitquant.artifact import WEIGHTS_FILE, Artifact

if TYPE_CHECKING:
    from torch import Tensor, nn  # which the server does without

Range = tuple[float, float]
SCALE, ZERO_POINT, HIGHEST = "input_scale", "input_zero_point", "input_highest"


def calibrated(artifact: Artifact) -> dict[str, Range]:
    """What the quantized layers of an artifact take, by name; nothing where none are fixed, or they are gone.

    A layer takes integers from 0 to its highest. A range ends half a step beyond those: until there values are rounded,
    as all are, and not clipped.
    """
    if artifact.spec.method != "static_int8":
        return {}
    try:
        with safe_open(artifact.path / WEIGHTS_FILE, "numpy") as file:
            names = [key.removesuffix(f".{SCALE}") for key in file.keys() if key.endswith(f".{SCALE}")]  # noqa: SIM118
            return {name: _range(*(file.get_tensor(f"{name}.{part}").item() for part in (SCALE, ZERO_POINT, HIGHEST)))
                    for name in names}  # fmt: skip
    except (SafetensorError, OSError):  # it was replaced since it was opened
        return {}


def _range(scale: float, zero_point: int, highest: int) -> Range:
    return (-0.5 - zero_point) * scale, (highest + 0.5 - zero_point) * scale


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
            low, high = self._ranges[name]
            outside: Any = (values < low) | (values > high)
            self._outside += int(outside.sum())
            self._all += values.numel()
