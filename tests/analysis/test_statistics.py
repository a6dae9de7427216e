import numpy as np
import pytest

from vitquant.analysis import statistics
from vitquant.analysis.findings import Estimate


def flags(true: int, false: int) -> np.ndarray:
    return np.array([True] * true + [False] * false)


def test_hits_at_k() -> None:
    logits = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [1.0, 1.0, 0.0]], np.float32)
    labels = np.array([1, 1, 0])
    assert statistics.hits(logits, labels, 1).tolist() == [True, False, False]  # a tie goes against the model
    assert statistics.hits(logits, labels, 2).tolist() == [True, True, True]


def test_wilsons_interval() -> None:
    """15 of 148: 6.2 % to 16.0 % (Newcombe 1998, Statistics in Medicine 17:857, table I, method 3)."""
    estimate = statistics.proportion(flags(15, 133))
    assert estimate.value == pytest.approx(10.14, abs=0.01)
    assert (estimate.low, estimate.high) == pytest.approx((6.24, 16.05), abs=0.01)


def test_mcnemar_is_the_binomial_test_on_discordant_pairs() -> None:
    ours = np.concatenate([flags(20, 0), flags(8, 0), flags(0, 2)])
    theirs = np.concatenate([flags(20, 0), flags(0, 8), flags(2, 0)])
    assert statistics.mcnemar_p(ours, theirs) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert statistics.mcnemar_p(ours, ours) == 1.0


def test_a_paired_difference_brackets_the_normal_interval() -> None:
    theirs = flags(700, 300)
    ours = theirs.copy()
    ours[:40] = False
    ours[700:710] = True
    estimate = statistics.paired_difference(ours, theirs, 5000, seed=0)
    assert estimate.value == pytest.approx(-3.0)
    error = 100 * np.sqrt((50 / 1000 - 0.03**2) / 1000)
    assert (estimate.low, estimate.high) == pytest.approx((-3 - 1.96 * error, -3 + 1.96 * error), abs=0.15)
    nothing = Estimate(value=0.0, low=0.0, high=0.0, unit="pp")
    assert statistics.paired_difference(theirs, theirs, 5000, seed=0) == nothing


def test_ratios_are_taken_pair_by_pair() -> None:
    """A machine that doubles its pace half-way changes every time, and no ratio."""
    pace = np.array([1.0] * 10 + [2.0] * 10)
    noise = np.random.default_rng(0).normal(1, 0.01, 20)
    estimate = statistics.paired_ratio(30 * pace * noise, 10 * pace, 2000, seed=0)
    assert estimate.value == pytest.approx(3.0, abs=0.03)
    assert 2.9 < estimate.low <= estimate.value <= estimate.high < 3.1
    assert estimate == statistics.paired_ratio(30 * pace * noise, 10 * pace, 2000, seed=0)


def test_a_distribution() -> None:
    assert statistics.distribution(np.arange(1.0, 102.0)) == pytest.approx(
        {"p50": 51, "p90": 91, "p99": 100, "cv_pct": 100 * np.std(np.arange(101), ddof=1) / 51}
    )
