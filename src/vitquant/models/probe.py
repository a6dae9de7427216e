"""The linear probe: multinomial logistic regression on frozen, standardised features."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from tqdm import tqdm

from vitquant.errors import VitquantError
from vitquant.params import Probe


def fit(features: NDArray[np.float32], labels: NDArray[np.int64], params: Probe, head: nn.Linear) -> dict[str, float]:
    """Fit the probe and write it into `head`, the standardisation folded into its weight and bias.

    The regularisation with the best top-1 on a held-out, stratified part of these images (the stronger
    one of equals) is chosen, then the probe is fitted again on all of them.

    Args:
        features: float32 (N, D), of training images only.
        labels: int64 (N,), in 0 … C-1, every class present.

    Returns:
        The chosen `c` and its `holdout_top1_pct`.
    """
    if not np.isfinite(features).all():
        raise VitquantError("the FP32 model gives NaN or infinite features: its weights are broken")
    held = max(math.ceil(params.holdout_fraction * len(labels)), len(np.unique(labels)))  # one of each class at least
    try:
        fit_x, held_x, fit_y, held_y = train_test_split(
            features, labels, test_size=held, random_state=params.seed, stratify=labels
        )
    except ValueError as error:
        raise VitquantError(f"probe.holdout_fraction: {params.holdout_fraction} cannot split: {error}") from None
    scores = {}
    for c in tqdm(sorted(params.c), desc="fit probe", unit="c"):
        scores[c] = _fit(c, fit_x, fit_y).score(held_x, held_y)
    best = max(scores, key=scores.__getitem__)
    scaler, regression = (step for _, step in _fit(best, features, labels).steps)
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps one row, the log-odds of the second class
        weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return {"c": best, "holdout_top1_pct": round(100 * scores[best], 2)}


def _fit(c: float, features: NDArray[np.float32], labels: NDArray[np.int64]) -> Any:
    """Standardisation and regression, fitted; on one thread, since the products are too small to share."""
    with threadpool_limits(1):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(features, labels)
