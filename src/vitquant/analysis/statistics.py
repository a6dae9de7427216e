"""The statistics of the study. Every interval is two-sided, 95 %."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from vitquant.analysis.findings import Estimate
from vitquant.results.hits import discordant

LEVEL = 0.95
TINY = 1e-12
Times = NDArray[np.float64]
Launches = Sequence[Times]
"""Of one recipe at one batch size: each launch's rounds, milliseconds."""


def proportion(hits: NDArray[np.bool_]) -> Estimate:
    """The share of hits, in percent, with Wilson's score interval (Wilson 1927)."""
    count, total = int(hits.sum()), len(hits)
    interval = stats.binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    low, high = 100 * float(interval.low), 100 * float(interval.high)
    return Estimate(value=100 * count / total, low=low, high=high, unit="%")


def paired_difference(hits: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> Estimate:
    """The difference in the share of hits, in percentage points, over the same images, with Tango's score interval.

    It holds the differences that a score test would not reject (Tango 1998, Statistics in Medicine 17:891). Where no
    image is discordant it is not empty: that many images without a change still leave room for one.
    """
    total = len(hits)
    gained, lost = discordant(hits, baseline)
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    value = (gained - lost) / total
    low, high = -1.0, 1.0
    if value > -1:
        low = brentq(lambda delta: tango_score(gained, lost, total, delta) - z, -1 + TINY, value - TINY)
    if value < 1:
        high = brentq(lambda delta: tango_score(gained, lost, total, delta) + z, value + TINY, 1 - TINY)
    return Estimate(value=100 * value, low=100 * low, high=100 * high, unit="pp")


def tango_score(gained: int, lost: int, total: int, delta: float) -> float:
    """The score statistic of a difference `delta` in shares, between -1 and 1: standard normal where it is true.

    `lost` images' share is estimated by maximum likelihood under that difference (Tango 1998, equation 3).
    """
    a = 2 * total
    b = -gained - lost + (2 * total - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = total * (2 * share + delta * (1 - delta))
    return (gained - lost - total * delta) / math.sqrt(max(variance, TINY))


def mcnemar_p(gained: int, lost: int) -> float:
    """McNemar's exact test: could this many discordant images fall so unevenly by chance? (McNemar 1947)

    Two-sided p, from the binomial distribution; 1 where no image is discordant.
    """
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, corrected so that of all of them together one is below a level by chance only that often.

    Holm 1979: the smallest times their number, the next times one less, and so on, none below the one before.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


def non_inferiority_power(discordant_share: float, total: int, margin: float) -> float:
    """How often `total` images would show a loss below `margin`, if there were none at all.

    By the normal approximation to the score test at 2.5 %, one-sided (Nam 1997, Biometrics 53:1422).

    Args:
        discordant_share: of the images, those that only one of the two has right.
        margin: in the same unit, a share.
    """
    at_margin, at_zero = _deviations(discordant_share, margin)
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    return float(stats.norm.cdf((margin * math.sqrt(total) - z * at_margin) / at_zero))


def non_inferiority_images(discordant_share: float, margin: float, power: float = 0.8) -> int:
    """How many images it takes to show a loss below `margin` with such a power, if there is none at all."""
    at_margin, at_zero = _deviations(discordant_share, margin)
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    return math.ceil(((z * at_margin + float(stats.norm.ppf(power)) * at_zero) / margin) ** 2)


def _deviations(discordant_share: float, margin: float) -> tuple[float, float]:
    """The standard deviation of an image's difference where the loss is `margin`, and where it is 0."""
    share = max(discordant_share, margin)
    return math.sqrt(share - margin**2), math.sqrt(share)


def paired_ratio(numerator: Launches, denominator: Launches) -> Estimate:
    """How many times as long the numerator takes: the geometric mean over launches of each one's median ratio.

    Ratios are taken round by round, on logarithms, in the launches and rounds that both have. The interval is Student's
    t over launches. Where only one launch is shared, its rounds take the launches' place: such an interval does not
    hold the variation between launches. It ends at a thousandfold of the value; two units alone can demand more.
    """
    logs = [_logs(above, below) for above, below in zip(numerator, denominator, strict=False)]
    centre, reach = _mean(_units(logs, np.median))
    reach = min(reach, math.log(1000))
    low, value, high = (math.exp(log) for log in (centre - reach, centre, centre + reach))
    return Estimate(value=value, low=low, high=high, unit="×")


def mean_ms(launches: Launches) -> Estimate:
    """The mean over launches of each one's mean, with Student's t interval; of one launch alone over its rounds."""
    value, reach = _mean(_units(launches, np.mean))
    return Estimate(value=value, low=max(0.0, value - reach), high=value + reach, unit="ms")


def distribution(launches: Launches) -> dict[str, float]:
    """`p50`, `p90` and `p99` of all rounds together, milliseconds, and `spread_pct`, the spread from launch to launch.

    That is 1.4826 times the median absolute deviation of the launches' medians, in percent of their median: of normal
    values the standard deviation, and one launch that went astray hardly moves it. Of one launch it is its rounds'.
    """
    p50, p90, p99 = np.percentile(np.concatenate(launches), [50, 90, 99])
    units = _units(launches, np.median)
    spread = stats.median_abs_deviation(units, scale="normal") / np.median(units)
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "spread_pct": float(100 * spread)}


def _logs(above: Times, below: Times) -> Times:
    rounds = min(len(above), len(below))
    return np.log(above[:rounds] / below[:rounds])


def _units(launches: Launches, statistic: Callable[[Times], Any]) -> Times:
    """What varies independently: the statistic of each launch, or where there is only one the values in it."""
    return np.array([statistic(launch) for launch in launches]) if len(launches) > 1 else launches[0]


def _mean(units: Times) -> tuple[float, float]:
    """The mean of at least two independent values, and how far Student's t interval reaches on both sides of it."""
    quantile = stats.t.ppf((1 + LEVEL) / 2, len(units) - 1)
    return float(np.mean(units)), float(quantile * stats.sem(units))
