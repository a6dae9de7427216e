"""The statistics of the study. Every interval is two-sided, 95 %."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from vitquant.analysis.findings import Estimate, Unit
from vitquant.results.hits import discordant

LEVEL = 0.95
TINY = 1e-12


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


def paired_ratio(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], resamples: int, seed: int
) -> Estimate:
    """The median of the ratios taken pair by pair, with a percentile bootstrap interval over pairs."""
    return _bootstrap(numerator / denominator, np.median, "×", resamples, seed)


def mean_ms(samples: NDArray[np.float64], resamples: int, seed: int) -> Estimate:
    """The mean of milliseconds, with a percentile bootstrap interval over samples."""
    return _bootstrap(samples, np.mean, "ms", resamples, seed)


def distribution(samples: NDArray[np.float64]) -> dict[str, float]:
    """`p50`, `p90`, `p99` in the samples' unit and `cv_pct`, the coefficient of variation in percent."""
    p50, p90, p99 = np.percentile(samples, [50, 90, 99])
    return {
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "cv_pct": float(100 * np.std(samples, ddof=1) / np.mean(samples)),
    }


def _bootstrap(
    values: NDArray[np.float64], statistic: Callable[..., Any], unit: Unit, resamples: int, seed: int
) -> Estimate:
    value = float(statistic(values))
    if np.ptp(values) == 0:  # every resample is the sample
        return Estimate(value=value, low=value, high=value, unit=unit)
    interval = stats.bootstrap(
        (values,),
        statistic,
        n_resamples=resamples,
        batch=max(1, 10_000_000 // len(values)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value=value, low=float(interval.low), high=float(interval.high), unit=unit)
