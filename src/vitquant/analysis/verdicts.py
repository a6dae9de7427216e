"""What an interval shows."""

from dataclasses import dataclass
from typing import Literal

from vitquant.analysis import statistics
from vitquant.analysis.findings import Accuracy, Estimate

Change = Literal["a loss", "a gain", "no difference shown"]
Pace = Literal["faster", "slower", "not distinguishable in speed"]


def loss_or_gain(difference: Estimate) -> Change:
    """Of a difference in accuracy; an interval that holds 0 shows nothing."""
    return "a loss" if difference.high < 0 else "a gain" if difference.low > 0 else "no difference shown"


def faster_or_slower(ratio: Estimate) -> Pace:
    """Of a speed-up; an interval that holds 1 shows nothing."""
    return "faster" if ratio.low > 1 else "slower" if ratio.high < 1 else "not distinguishable in speed"


@dataclass(frozen=True)
class NonInferiority:
    """Whether a recipe loses less than a margin: the whole interval lies above it, a one-sided test at 2.5 %."""

    shown: bool
    power: float
    """How often so many images would show it, if the recipe lost nothing, with as many discordant images as seen."""
    images: int
    """How many it would take for a power of 80 %."""


def non_inferiority(accuracy: Accuracy, images: int, margin: float) -> NonInferiority | None:
    """The test of top-1 against FP32 over `images` images; None where there is no difference."""
    if accuracy.top1_delta is None or accuracy.gained is None or accuracy.lost is None or margin <= 0:
        return None
    share = (accuracy.gained + accuracy.lost) / images
    return NonInferiority(
        shown=accuracy.top1_delta.low >= -margin,
        power=statistics.non_inferiority_power(share, images, margin / 100),
        images=statistics.non_inferiority_images(share, margin / 100),
    )
