"""How often the monitor's alarm is false, and how soon it is right, by simulation; and what no test can do better.

    python benchmarks/sequential.py [streams]

A stream is a sequence of sampled images that have FP32's class or not, independently, at a rate that may change once.
The alarm and the interval are the project's own, `monitoring.sequential`, at the length of a long life (20,000 images)
where false alarms are counted. The bound is the share that is still right: the study's own, or the end of its interval.
"""

import sys

import numpy as np
from scipy import stats
from tabulate import tabulate

from vitquant.monitoring import sequential

LIFE = 20_000  # images
GOOD, BAD = 0.006, 0.03  # of another class than FP32's: agreement 99.4 and 97 %
WILSON = 1 - stats.binomtest(1044, 1050).proportion_ci(0.95, method="wilson").low
"""The end of the interval of that agreement, where a study has 1,050 images: six differ."""


def alarms(bound: float, rates: np.ndarray, streams: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of each stream the image, counted from 1, at which the alarm comes, and the first one that lies outside.

    Images are given one by one to all streams; infinite where an alarm never comes.

    Args:
        rates: the true rate at every image.

    Returns:
        Also of each stream whether the 95 % interval ever misses the true rate, if that never changes.
    """
    capital = np.zeros((streams, len(sequential.ODDS)))
    found, missed = np.full(streams, np.inf), np.zeros(streams, bool)
    count = np.zeros(streams, int)
    for number, rate in enumerate(rates, start=1):
        differs = rng.random(streams) < rate
        count += differs
        capital = np.minimum(sequential.step(capital, number, differs[:, None].astype(float), bound), 1e200)
        found[(capital.sum(axis=1) >= 1 / sequential.ALPHA) & np.isinf(found)] = number
        missed |= sequential.evidence(rate, count, np.full(streams, number)) >= np.log(1 / 0.05)
    return found, missed


def least_looking_once(power: float) -> int:
    """The images after which the best of all tests that look only once finds BAD against GOOD with this power.

    The most powerful test (Neyman & Pearson 1933) of the count, randomised so that its level is exact.
    """
    number = 1
    while powers(number) < power:
        number += 1
    return number


def powers(number: int) -> float:
    """Its power after so many images."""
    most = int(stats.binom.isf(sequential.ALPHA, number, GOOD))
    left = sequential.ALPHA - stats.binom.sf(most, number, GOOD)
    share = left / stats.binom.pmf(most, number, GOOD)
    return float(stats.binom.sf(most, number, BAD) + share * stats.binom.pmf(most, number, BAD))


def main(count: str = "2000") -> None:
    """Print both tables, and the limit."""
    streams, rng = int(count), np.random.default_rng(0)
    rows = []
    for bound in (GOOD, WILSON):
        for rate in (bound, bound / 2):
            found, missed = alarms(bound, np.full(LIFE, rate), streams, rng)
            rows.append([100 * bound, 100 * rate, 100 * np.isfinite(found).mean(), 100 * (1 - missed.mean())])
    head = ["bound, %", "true rate, %", "false alarms, %", "95 % interval always holds, %"]
    print(f"{streams} streams of {LIFE} images\n\n{tabulate(rows, head, floatfmt='.2f')}\n")
    rows = []
    for bound in (GOOD, WILSON):
        for before in (0, 1000, 10_000):
            for after in (0.02, BAD, 0.06, 0.12):
                rates = np.concatenate([np.full(before, GOOD), np.full(4000, after)])
                found, _ = alarms(bound, rates, streams, rng)
                delay = found[found > before] - before
                half, most = np.quantile(delay, [0.5, 0.9], method="higher")
                rows.append([100 * bound, before, 100 * (1 - after), half, most, 100 * (delay <= 310).mean()])  # noqa: PLR2004
    head = ["bound, %", "images before", "agreement falls to, %", "median delay", "9 of 10", "within 310, %"]
    print(tabulate(rows, head, floatfmt=("0.2f", ".0f", ".1f", ".0f", ".0f", ".0f")))
    print(
        f"\nThe best test that looks once, at 1 %, from 99.4 to 97 %: after 310 images in {100 * powers(310):.1f} % of "
        f"the runs; in 9 of 10 after {least_looking_once(0.9)}."
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
