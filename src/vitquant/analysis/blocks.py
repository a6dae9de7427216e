"""Percentiles of latencies under load, whose neighbours are not independent: they share a phase of the server."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
BLOCK = 1.0  # seconds
RESAMPLES = 2000
PERCENTILES = (50, 95, 99)


def split(at: Iterable[float], latencies: Iterable[float]) -> list[Times]:
    """Latencies as blocks of BLOCK seconds by the times, in seconds, that they belong to."""
    blocks: dict[int, list[float]] = {}
    for when, latency in zip(at, latencies, strict=True):
        blocks.setdefault(int(when / BLOCK), []).append(latency)
    return [np.array(block) for block in blocks.values()]


def percentiles(blocks: Sequence[Times]) -> Times:
    """PERCENTILES of all of them, (3,)."""
    found: Times = np.percentile(np.concatenate(blocks), PERCENTILES)
    return found


def resampled(blocks: Sequence[Times], seed: int = 0) -> Times:
    """The same of RESAMPLES draws of as many whole blocks, with replacement, (RESAMPLES, 3): a block bootstrap.

    (Carlstein 1986, Annals of Statistics 14:1171: blocks that do not overlap.)
    """
    rng = np.random.default_rng(seed)
    return np.array(
        [percentiles([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))]) for _ in range(RESAMPLES)]
    )


def bounds(drawn: Times) -> Times:
    """The 95 % interval of what was resampled: low and high, by column."""
    found: Times = np.percentile(drawn, [2.5, 97.5], axis=0)
    return found
