"""An interval whose end is the value of no change shows nothing."""

import pytest

from vitquant.analysis.findings import Estimate
from vitquant.analysis.verdicts import faster_or_slower, loss_or_gain


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-1.0, -0.1, "a loss"),
        (-1.0, 0.0, "no difference shown"),
        (-1.0, 1.0, "no difference shown"),
        (0.0, 1.0, "no difference shown"),
        (0.1, 1.0, "a gain"),
    ],
)
def test_a_difference_in_accuracy(low: float, high: float, verdict: str) -> None:
    assert loss_or_gain(Estimate(value=low, low=low, high=high, unit="pp")) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.9, "slower"),
        (0.5, 1.0, "not distinguishable in speed"),
        (0.9, 1.1, "not distinguishable in speed"),
        (1.0, 1.1, "not distinguishable in speed"),
        (1.1, 1.2, "faster"),
    ],
)
def test_a_ratio_of_times(low: float, high: float, verdict: str) -> None:
    assert faster_or_slower(Estimate(value=low, low=low, high=high, unit="×")) == verdict
