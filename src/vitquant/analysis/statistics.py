"""The statistics of the study. Every interval is two-sided, 95 %."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vitquant.analysis.findings import Estimate, Unit

LEVEL = 0.95


def hits(logits: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Whether each image's true class is among the k best-scored, bool (N,); ties go against the model."""
    truth = np.take_along_axis(logits, labels[:, None], axis=1)
    return np.asarray((logits >= truth).sum(axis=1) <= k)


def proportion(hits: NDArray[np.bool_]) -> Estimate:
    """The share of hits, in percent, with Wilson's score interval (Wilson 1927)."""
    count, total = int(hits.sum()), len(hits)
    interval = stats.binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    low, high = 100 * float(interval.low), 100 * float(interval.high)
    return Estimate(value=100 * count / total, low=low, high=high, unit="%")


def paired_difference(hits: NDArray[np.bool_], baseline: NDArray[np.bool_], resamples: int, seed: int) -> Estimate:
    """The difference in the share of hits, in percentage points, over the same images.

    Percentile bootstrap over images (Efron & Tibshirani 1993, chapter 13). An image is gained, lost or neither, so
    that how often each is drawn is multinomial: the resamples are drawn as those counts, not image by image.
    """
    total = len(hits)
    gained, lost = int((hits & ~baseline).sum()), int((~hits & baseline).sum())
    shares = np.array([gained, lost, total - gained - lost]) / total
    counts = np.random.default_rng(seed).multinomial(total, shares, size=resamples)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(100 * (counts[:, 0] - counts[:, 1]) / total, [tail, 100 - tail])
    return Estimate(value=100 * (gained - lost) / total, low=float(low), high=float(high), unit="pp")


def mcnemar_p(hits: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> float:
    """McNemar's exact test: could this many discordant images fall so unevenly by chance? (McNemar 1947)

    Two-sided p, from the binomial distribution; 1 where no image is discordant.
    """
    gained, lost = int((hits & ~baseline).sum()), int((~hits & baseline).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


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
