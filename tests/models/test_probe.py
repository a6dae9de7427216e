import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from vitquant.errors import VitquantError
from vitquant.models import probe
from vitquant.params import Probe

PARAMS = Probe(holdout_fraction=0.25, c=[1.0, 0.01], seed=0)


def clusters(classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 40)
    centres = rng.normal(size=(classes, 6)) * 2
    return (3 + 5 * (centres[labels] + rng.normal(size=(len(labels), 6)))).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_the_head_is_the_fitted_probe(classes: int) -> None:
    features, labels = clusters(classes)
    head = nn.Linear(6, classes)
    chosen = probe.fit(features, labels, PARAMS, head)
    scaler = StandardScaler().fit(features)
    expected = LogisticRegression(C=chosen["c"], max_iter=1000).fit(scaler.transform(features), labels)
    probabilities = head(torch.from_numpy(features)).softmax(dim=1).detach().numpy()
    assert np.abs(probabilities - expected.predict_proba(scaler.transform(features))).max() < 1e-4
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.8


def test_the_regularisation_with_the_best_held_out_accuracy_is_chosen() -> None:
    features, labels = clusters(5)
    params = PARAMS.model_copy(update={"c": [1.0, 1e-9]})  # so strong that it learns nothing but the means
    chosen = probe.fit(features + 0, labels, params, nn.Linear(6, 5))
    assert chosen["c"] in params.c
    assert chosen["holdout_top1_pct"] > 80


def test_broken_features_and_an_impossible_holdout() -> None:
    features, labels = clusters(5)
    with pytest.raises(VitquantError, match="probe.holdout_fraction: 0.99 cannot split"):
        probe.fit(features, labels, PARAMS.model_copy(update={"holdout_fraction": 0.99}), nn.Linear(6, 5))
    features[0, 0] = np.nan
    with pytest.raises(VitquantError, match="NaN or infinite features"):
        probe.fit(features, labels, PARAMS, nn.Linear(6, 5))
