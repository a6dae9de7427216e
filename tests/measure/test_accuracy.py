import shutil
from pathlib import Path

import numpy as np
import pytest

from vitquant import recipes
from vitquant.artifact import Predictor
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.files import read_json
from vitquant.measure import accuracy
from vitquant.params import Evaluate

PARAMS = Evaluate(batch_size=1, cuda_batch_size=1, workers=0)


def test_predictions_are_the_same_for_any_batch_size_worker_and_thread_count(fp32: Path, prepared: Prepared) -> None:
    predictor = recipes.load(fp32)
    expected = accuracy.predict(predictor, prepared, PARAMS, threads=1)
    for batch_size, workers, threads in ((1, 0, 2), (5, 2, 2), (100, 1, 1), (7, 0, 3)):
        params = Evaluate(batch_size=batch_size, cuda_batch_size=1, workers=workers)
        logits = accuracy.predict(predictor, prepared, params, threads)
        assert logits.shape == (24, 6)
        assert np.abs(logits - expected).max() < 1e-4
        assert np.array_equal(logits.argmax(axis=1), expected.argmax(axis=1))


def test_the_summary_and_the_logits_are_written(fp32: Path, prepared: Prepared, tmp_path: Path) -> None:
    accuracy.evaluate(recipes.load(fp32), prepared, PARAMS, 2, tmp_path / "a/fp32.json", tmp_path / "p/fp32.npz")
    summary = read_json(tmp_path / "a/fp32.json")
    logits = np.load(tmp_path / "p/fp32.npz")["logits"]
    right = logits.argmax(axis=1) == prepared.labels("val")
    assert summary["top1_pct"] == round(100 * right.mean(), 2)
    assert summary["top1_ci95_pct"][0] < summary["top1_pct"] < summary["top1_ci95_pct"][1]
    assert summary["top1_pct"] > 50  # six easy classes
    assert summary["top5_pct"] >= summary["top1_pct"]
    assert summary["details"]["probe"]["c"] in (0.01, 0.1)


def test_two_classes_have_no_top5() -> None:
    assert "top5_pct" not in accuracy.summarize(np.eye(2, dtype=np.float32), np.array([0, 1]))


def test_an_artifact_for_other_classes(fp32: Path, prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    shutil.copyfile(prepared.path / "preprocessing.json", tmp_path / "preprocessing.json")
    with pytest.raises(VitquantError, match="is for other classes than"):
        accuracy.predict(recipes.load(fp32), Prepared(tmp_path), PARAMS, 1)


def test_an_error_in_a_thread_ends_the_evaluation(fp32: Path, prepared: Prepared) -> None:
    good = recipes.load(fp32)
    broken = Predictor(good.artifact, lambda inputs: good.forward(inputs) * float("nan"))
    with pytest.raises(VitquantError, match="NaN or infinite logits"):
        accuracy.predict(broken, prepared, PARAMS, 2)
