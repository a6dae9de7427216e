"""Queues: by hand, and against the formula for the mean wait."""

import numpy as np
import pytest

from vitquant.analysis.queueing import ideal


def test_by_hand() -> None:
    assert ideal([0, 1, 1.5, 10], 2.0).tolist() == [2, 3, 4.5, 2]
    assert ideal([10, 1.5, 1, 0], 2.0).tolist() == [2, 4.5, 3, 2]  # whatever their order
    assert ideal([0, 1, 1.5, 10], 2.0, workers=2).tolist() == [2, 2, 2.5, 2]
    assert ideal([], 2.0).tolist() == []


def test_the_mean_wait_is_as_pollaczek_and_khinchin_have_it() -> None:
    """Of constant service times S at a load r: r S / (2 (1 - r)) (Khinchin 1932)."""
    load = 0.6
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / load, 200_000))
    assert ideal(arrivals, 1.0).mean() - 1 == pytest.approx(load / (2 * (1 - load)), rel=0.02)
