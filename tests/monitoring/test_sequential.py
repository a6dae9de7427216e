"""The alarm and the interval over simulated streams, a fixed seed; benchmarks/sequential.py has the large ones."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vitquant.monitoring import sequential
from vitquant.monitoring.sequential import Watch

BOUND = 0.006
STREAMS = 500


def alarms(rates: NDArray[np.float64], bound: float = BOUND) -> NDArray[np.float64]:
    """The image at which each of STREAMS alarms; infinite where it never does."""
    rng, capital = np.random.default_rng(0), np.zeros((STREAMS, len(sequential.ODDS)))
    found = np.full(STREAMS, np.inf)
    for number, rate in enumerate(rates, start=1):
        losses = (rng.random((STREAMS, 1)) < rate).astype(float)
        capital = sequential.step(capital, number, losses, bound)
        found[(capital.sum(axis=1) >= 1 / sequential.ALPHA) & np.isinf(found)] = number
    return found


def test_false_alarms_are_at_most_one_in_a_hundred_and_a_fall_is_found() -> None:
    quiet = alarms(np.full(3000, BOUND))
    assert np.isfinite(quiet).sum() <= 10  # 2 % of 500: by chance once in fifty if it were 1 %
    fallen = alarms(np.full(1000, 0.03))
    assert np.median(fallen) < 250
    later = alarms(np.concatenate([np.full(1000, BOUND), np.full(1500, 0.03)]))
    delays = later[later > 1000] - 1000
    assert len(delays) > 0.98 * STREAMS
    assert np.median(delays) < 600


@pytest.mark.parametrize("loss", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bound", [0.001, 0.1, 0.9])
def test_the_capital_is_what_a_fair_game_leaves(bound: float, loss: float) -> None:
    """Of a mean loss at the bound the capital, with what is staked, stays; of one below it shrinks."""
    capital, number = np.array([2.0, 1.0, 0.5]), 7
    stakes = sequential.stake(number) / 3
    by_loss = [sequential.step(capital, number, np.array([each]), bound) for each in (0.0, 1.0)]
    np.testing.assert_allclose((1 - bound) * by_loss[0] + bound * by_loss[1], capital + stakes)
    found = sequential.step(capital, number, np.array([loss]), bound)
    np.testing.assert_allclose(found, (1 - loss) * by_loss[0] + loss * by_loss[1])
    assert (found >= 0).all()


def test_the_stakes_are_one_together() -> None:
    total = sum(sequential.stake(number) for number in range(1, 100_000))
    assert 0.98 < total < 1


def test_a_watch_alarms_once_and_goes_on_from_what_it_kept() -> None:
    differs = np.random.default_rng(0).random(2000) < 0.05
    whole, kept = Watch(bound=0.01), Watch(bound=0.01)
    raised = [number for number, each in enumerate(differs, start=1) if whole.add(bool(each))]
    for each in differs:
        kept = Watch.model_validate_json(kept.model_dump_json())
        kept.add(bool(each))
    assert raised == [whole.alarm]
    assert kept == whole
    assert (whole.seen, whole.differ) == (2000, differs.sum())
    unknown = Watch(bound=None)
    assert not any(unknown.add(True) for _ in range(50))


def test_the_interval_holds_the_share_at_all_times_at_once() -> None:
    rng, share = np.random.default_rng(1), 0.03
    counts = (rng.random((STREAMS, 2000)) < share).cumsum(axis=1)
    excluded = sequential.evidence(share, counts, np.arange(1, 2001)) >= np.log(20)
    assert excluded.any(axis=1).mean() < 0.05
    for count, total in ((0, 50), (7, 300), (300, 300), (1, 1)):
        low, high = sequential.interval(count, total)
        assert 0 <= low <= count / total <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                assert sequential.evidence(end, count, total) == pytest.approx(np.log(20), rel=1e-6)
    assert sequential.interval(0, 0) == (0.0, 1.0)
