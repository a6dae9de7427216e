"""What an interval shows."""

from typing import Literal

from vitquant.analysis.findings import Estimate

Change = Literal["a loss", "a gain", "no difference shown"]
Pace = Literal["faster", "slower", "not distinguishable in speed"]


def loss_or_gain(difference: Estimate) -> Change:
    """Of a difference in accuracy; an interval that holds 0 shows nothing."""
    return "a loss" if difference.high < 0 else "a gain" if difference.low > 0 else "no difference shown"


def faster_or_slower(ratio: Estimate) -> Pace:
    """Of a speed-up; an interval that holds 1 shows nothing."""
    return "faster" if ratio.low > 1 else "slower" if ratio.high < 1 else "not distinguishable in speed"
