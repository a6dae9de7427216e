"""Classification by the k nearest neighbours of an embedding, as DINOv2 evaluates its own.

Embeddings have length 1. The k most similar of the train split vote for their classes, each with the softmax of its
similarity over the temperature: dinov2/eval/knn.py of github.com/facebookresearch/dinov2; Oquab et al. 2023 take k = 20
and a temperature of 0.07, as Wu et al. 2018 did.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from vitquant.errors import VitquantError
from vitquant.params import Embedding

CHUNK = 256  # queries at once
LEAST = 1e-12  # of a share of the votes, so that it has a logarithm


def votes(
    bank: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    classes: int,
    params: Embedding,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Classify queries by a bank of embeddings.

    Args:
        bank: of the train split, (T, D).
        labels: its classes, (T,), in 0 … C-1.
        queries: (N, D).
        classes: C.

    Returns:
        The logarithm of each class's share of the votes, (N, C), whose softmax the shares are; and each query's nearest
        neighbour, a row of the bank, (N,).

    Raises:
        VitquantError: the bank is smaller than k.
    """
    if params.neighbours > len(bank):
        raise VitquantError(f"embedding.neighbours: {params.neighbours}, and the train split has {len(bank)} images")
    shares, nearest = np.zeros((len(queries), classes)), np.empty(len(queries), np.int64)
    known, asked = _normalised(bank), _normalised(queries)
    for start in range(0, len(asked), CHUNK):
        similarity = asked[start : start + CHUNK] @ known.T
        rows = np.arange(len(similarity))[:, None]
        order = np.argsort(-similarity, axis=1, kind="stable")[:, : params.neighbours]
        weights = softmax(similarity[rows, order] / params.temperature, axis=1)
        np.add.at(shares, (start + rows, labels[order]), weights)
        nearest[start : start + CHUNK] = order[:, 0]
    return np.log(np.maximum(shares, LEAST)).astype(np.float32), nearest


def _normalised(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    result: NDArray[np.float64] = embeddings / np.maximum(lengths, LEAST)
    return result
