"""Whether images changed: two samples of what FP32 makes of them, compared without labels.

It says that inputs changed, never that accuracy fell: a model can be as good on others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

PERMUTATIONS = 999
FEWEST, MOST = 50, 256  # images of a sample
LEVEL = 0.01  # of both tests together


@dataclass(frozen=True)
class Drift:
    """The two tests of one look."""

    images: int
    discrepancy: float
    """The maximum mean discrepancy of embeddings, squared."""
    discrepancy_p: float
    confidence: float
    """The Kolmogorov–Smirnov statistic of FP32's confidence."""
    confidence_p: float

    @property
    def changed(self) -> bool:
        """Whether one of the two is rarer by chance than half of LEVEL (Bonferroni)."""
        return min(self.discrepancy_p, self.confidence_p) <= LEVEL / 2


def compare(
    embedding: NDArray[np.float32],
    confidence: NDArray[np.float32],
    reference: NDArray[np.float32],
    reference_confidence: NDArray[np.float32],
    seed: int = 0,
) -> Drift:
    """Embeddings (n, D) and confidences (n,) of served images, against those of the reference."""
    discrepancy, p = discrepancy_test(embedding, reference, np.random.default_rng(seed))
    found = stats.ks_2samp(confidence, reference_confidence)
    return Drift(len(embedding), discrepancy, p, float(found.statistic), float(found.pvalue))


def confidence(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of images' logits, (n, C), the greatest probability, (n,)."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    greatest: NDArray[np.float32] = 1 / odds.sum(axis=1)
    return greatest


def discrepancy_test(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], rng: np.random.Generator
) -> tuple[float, float]:
    """The squared maximum mean discrepancy (Gretton et al. 2012) of (n, D) and (m, D), and its permutation test's p.

    The kernel is Gaussian, its width the median distance of all pairs; p is exact, at least 1 / (PERMUTATIONS + 1).
    """
    both = np.concatenate([ours, theirs]).astype(np.float64)
    squares = (both**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0)
    width = np.median(distances[np.triu_indices(len(both), 1)])
    kernel = np.exp(-distances / max(float(width), 1e-12))
    weights = np.concatenate([np.full(len(ours), 1 / len(ours)), np.full(len(theirs), -1 / len(theirs))])
    signs = np.stack([weights, *(rng.permutation(weights) for _ in range(PERMUTATIONS))])
    found = ((signs @ kernel) * signs).sum(axis=1)
    rarer = int((found[1:] >= found[0] - 1e-12).sum())
    return float(found[0]), (1 + rarer) / (1 + PERMUTATIONS)
