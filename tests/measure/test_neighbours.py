"""Classification by neighbours, against DINOv2's own way of writing it; an evaluation of embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax

from vitquant import recipes
from vitquant.analysis import estimates
from vitquant.analysis.estimates import Evidence
from vitquant.analysis.findings import Roofline
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy, neighbours
from vitquant.models import baseline
from vitquant.params import Embedding, Params, Recipe
from vitquant.results import form, predictions
from vitquant.results.accuracy import Accuracy
from vitquant.traits import FP32

PARAMS = Embedding(pooling="class", neighbours=20, temperature=0.07)


def test_votes_are_dinov2s() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 500)
    centres = rng.normal(size=(7, 16))
    bank = (centres[labels] + rng.normal(size=(500, 16))).astype(np.float32)
    queries = (centres[rng.integers(0, 7, 300)] + rng.normal(size=(300, 16))).astype(np.float32)
    logits, nearest = neighbours.votes(bank, labels, queries, 7, PARAMS)
    similarity = F.normalize(torch.from_numpy(queries)) @ F.normalize(torch.from_numpy(bank)).T
    top, rows = similarity.topk(20, dim=1)
    weights = F.softmax(top / 0.07, dim=1)
    expected = (F.one_hot(torch.from_numpy(labels)[rows], 7) * weights[..., None]).sum(dim=1)
    assert np.abs(softmax(logits, axis=1) - expected.numpy()).max() < 1e-5
    assert (nearest == similarity.argmax(dim=1).numpy()).all()
    assert len(set(expected.argmax(dim=1).tolist())) == 7


def test_lengths_do_not_matter_and_a_bank_that_is_too_small_is_named() -> None:
    rng = np.random.default_rng(0)
    bank, queries = (rng.normal(size=(30, 4)).astype(np.float32) for _ in range(2))
    labels = np.arange(30) % 3
    longer = bank * rng.uniform(1, 9, (30, 1)).astype(np.float32)
    both = [neighbours.votes(each, labels, queries, 3, PARAMS) for each in (bank, longer)]
    assert np.abs(both[0][0] - both[1][0]).max() < 1e-3
    assert (both[0][1] == both[1][1]).all()
    with pytest.raises(VitquantError, match="embedding.neighbours: 20, and the train split has 19 images"):
        neighbours.votes(bank[:19], labels[:19], queries, 3, PARAMS)


@pytest.fixture(scope="module")
def features(params: Params, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP32 artifact of the miniature study without a classifier."""
    path = tmp_path_factory.mktemp("features") / "baseline"
    baseline.build(params.model_copy(update={"head": "features"}), Path("unused"), prepared, path, threads=2)
    return path


def test_an_evaluation_of_embeddings(
    features: Path, params: Params, prepared: Prepared, calibration: np.ndarray, tmp_path: Path
) -> None:
    recipe = Recipe.model_validate(params.recipes["dynamic-int8"].model_dump())  # whose images affect each other
    recipes.build("dynamic-int8", recipe, features, tmp_path / "dynamic-int8", calibration)
    found = {}
    for path in (features, tmp_path / "dynamic-int8"):
        predictor, file = recipes.load(path), tmp_path / f"{path.name}.json"
        accuracy.evaluate(predictor, prepared, params.evaluate, 2, file, file.with_suffix(".npz"), params.embedding)
        arrays, written = predictions.read(file.with_suffix(".npz")), form.read(file, Accuracy)
        assert written.predicted
        assert written.predicted.logits_sha256 == predictions.digest(arrays["logits"])
        assert arrays["class_tokens"].shape == (24, 64)
        assert arrays["nearest"].shape == (24,)
        assert arrays["logits"].shape == (24, 6)
        one_by_one = np.concatenate([predictor(image[None]) for image in prepared.images("val")])
        assert np.abs(arrays["class_tokens"] - one_by_one).max() < 1e-4
        bank = np.concatenate([predictor(image[None]) for image in prepared.images("train")])
        cosines = one_by_one @ bank.T / np.outer(np.linalg.norm(one_by_one, axis=1), np.linalg.norm(bank, axis=1))
        assert (cosines[np.arange(24), arrays["nearest"]] > cosines.max(axis=1) - 1e-4).all()
        assert (arrays["logits"].argmax(axis=1) == prepared.labels("val")).mean() > 0.5  # six easy classes
        found[written.recipe] = arrays
    assert found["dynamic-int8"]["logits_large_batch"].shape == (8, 6)
    assert set(found["fp32"]) == {"logits", "class_tokens", "nearest"}


def test_estimates_of_embeddings() -> None:
    labels = np.array([0, 1, 2, 0])
    logits = np.eye(3, dtype=np.float32)[labels]
    cosine = np.array([0.9, 0.99, 1.0, 0.95], np.float32)
    evidence = {
        "fp32": Evidence(FP32, logits=logits, nearest=np.array([3, 1, 4, 1])),
        "mine": Evidence(FP32, logits=logits, cosine=cosine, nearest=np.array([3, 1, 0, 1])),
    }
    found = estimates.recipes(evidence, labels, Roofline(products_per_image=1))["mine"]
    assert found.accuracy
    assert found.accuracy.nearest_agreement_pct == 75.0
    assert found.accuracy.class_token_mean_cosine == 0.96
    assert found.cosine == pytest.approx(0.9 + 0.03 * 0.05, abs=1e-5)  # of four, 3 % of the way to the second
    assert found.accuracy.class_token_least_cosine == 0.9
