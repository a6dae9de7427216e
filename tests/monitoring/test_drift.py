"""Two samples of the same, and of others."""

import numpy as np

from vitquant.monitoring import drift


def test_the_same_is_rarely_called_changed_and_what_changed_is_found() -> None:
    rng = np.random.default_rng(0)
    same = [drift.discrepancy_test(rng.normal(size=(60, 8)), rng.normal(size=(80, 8)), rng)[1] for _ in range(60)]
    assert 0.3 < np.mean(same) < 0.7
    assert np.mean(np.array(same) <= 0.05) < 0.15
    reference, confidence = rng.normal(size=(200, 8)), rng.uniform(0.5, 1, 200)
    moved = drift.compare(rng.normal(size=(100, 8)) + 0.5, rng.uniform(0.5, 1, 100), reference, confidence)
    assert moved.changed and moved.discrepancy_p == 1 / (1 + drift.PERMUTATIONS)
    unsure = drift.compare(rng.normal(size=(100, 8)), rng.uniform(0.3, 0.8, 100), reference, confidence)
    assert unsure.changed and unsure.confidence_p < 1e-4 < unsure.discrepancy_p


def test_embeddings_all_alike_are_no_change() -> None:
    ones = np.ones((60, 4), np.float32)
    assert not drift.compare(ones, ones[:, 0], ones, ones[:, 0]).changed
