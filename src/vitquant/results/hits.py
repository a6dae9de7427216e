"""Which images are predicted right, and by which of two recipes alone."""

import numpy as np
from numpy.typing import NDArray


def hits(logits: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Whether each image's true class is among the k best-scored, bool (N,); ties, and NaN, go against the model.

    Logits are float32 (N, C), labels int64 (N,).
    """
    truth = np.take_along_axis(logits, labels[:, None], axis=1)
    return np.asarray((~(logits < truth)).sum(axis=1) <= k)


def discordant(hits: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> tuple[int, int]:
    """How many images only `hits` has right, and how many only `baseline`."""
    return int((hits & ~baseline).sum()), int((~hits & baseline).sum())
