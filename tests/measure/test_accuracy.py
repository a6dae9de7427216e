import shutil
from pathlib import Path

import numpy as np
import pytest

from vitquant import recipes
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy, environment
from vitquant.params import Evaluate, Params
from vitquant.predictor import Predictor
from vitquant.results import form, predictions
from vitquant.results.accuracy import AS_FP32, LARGE_BATCH, Accuracy, LargeBatch
from vitquant.traits import FP32

WIDTH = 64  # of the model
PARAMS = Evaluate(batch_size=1, cuda_batch_size=1, large_batch=5, workers=0)


def test_predictions_are_the_same_for_any_batch_size_worker_and_thread_count(fp32: Path, prepared: Prepared) -> None:
    predictor = recipes.load(fp32)
    expected = accuracy.predict(predictor, prepared, PARAMS, threads=1)
    for batch_size, workers, threads in ((1, 0, 2), (5, 2, 2), (100, 1, 1), (7, 0, 3)):
        params = Evaluate(batch_size=batch_size, cuda_batch_size=1, large_batch=5, workers=workers)
        outputs = accuracy.predict(predictor, prepared, params, threads)
        assert outputs.shape == (24, 6 + WIDTH)
        assert np.abs(outputs - expected).max() < 1e-4
        assert np.array_equal(outputs[:, :6].argmax(axis=1), expected[:, :6].argmax(axis=1))


def test_the_predictions_are_written_and_what_they_belong_to(fp32: Path, prepared: Prepared, tmp_path: Path) -> None:
    predictor, file, stored = recipes.load(fp32), tmp_path / "a/fp32.json", tmp_path / "p/fp32.npz"
    accuracy.evaluate(predictor, prepared, PARAMS, 2, file, stored)
    written, arrays = form.read(file, Accuracy), predictions.read(stored)
    outputs = predictor.outputs(prepared.images("val"))
    assert np.abs(arrays["logits"] - outputs[:, :6]).max() < 1e-4
    assert np.abs(arrays["class_tokens"] - outputs[:, 6:]).max() < 1e-4
    assert (arrays["logits"].argmax(axis=1) == prepared.labels("val")).mean() > 0.5  # six easy classes
    assert written.predicted
    assert written.predicted.images == 24
    assert written.predicted.logits_sha256 == predictions.digest(arrays["logits"])
    assert written.predicted.artifact_sha256 == predictor.artifact.sha256
    assert written.predicted.environment == environment.machine()
    assert written.details["probe"]["c"] in (0.01, 0.1)


def test_a_recipe_whose_scales_span_the_batch_is_predicted_in_large_batches_too(
    fp32: Path, params: Params, prepared: Prepared, calibration: np.ndarray, tmp_path: Path
) -> None:
    recipes.build("dynamic-int8", params.recipes["dynamic-int8"], fp32, tmp_path / "dynamic-int8", calibration)
    predictor, images = recipes.load(tmp_path / "dynamic-int8"), prepared.images("val")
    accuracy.evaluate(predictor, prepared, params.evaluate, 2, tmp_path / "a.json", tmp_path / "p.npz")
    written, arrays = form.read(tmp_path / "a.json", Accuracy).predicted, predictions.read(tmp_path / "p.npz")
    alone, large, part = arrays["logits"], arrays["logits_large_batch"], prepared.part(LARGE_BATCH)
    assert np.abs(alone - np.concatenate([predictor(image[None]) for image in images])).max() < 1e-4
    assert np.abs(large - np.concatenate([predictor(images[part[:5]]), predictor(images[part[5:]])])).max() < 1e-4
    assert np.abs(large - alone[part]).max() > 1e-3
    assert written
    assert written.large_batch == LargeBatch(size=5, logits_sha256=predictions.digest(large))
    accuracy.evaluate(recipes.load(fp32), prepared, params.evaluate, 2, tmp_path / "a.json", tmp_path / "p.npz")
    assert "large_batch" not in (tmp_path / "a.json").read_text()
    assert set(predictions.read(tmp_path / "p.npz")) == {"logits", "class_tokens"}


def test_a_recipe_whose_logits_are_fp32s_predicts_a_part_of_each_class(
    fp32: Path, params: Params, prepared: Prepared, calibration: np.ndarray, tmp_path: Path
) -> None:
    predictor = recipes.load(fp32)
    assert accuracy.equals_fp32(predictor, predictor, calibration)
    moved = Predictor(predictor.artifact, lambda inputs: predictor.forward(inputs) + 0.002)
    assert not accuracy.equals_fp32(moved, predictor, calibration)
    recipes.build("int8", params.recipes["dynamic-int8"], fp32, tmp_path / "int8", calibration)
    int8 = recipes.load(tmp_path / "int8")
    assert not accuracy.equals_fp32(int8, int8, calibration)  # whatever its logits are
    accuracy.evaluate(predictor, prepared, PARAMS, 2, tmp_path / "a.json", tmp_path / "p.npz", as_fp32=True)
    written, arrays, part = (
        form.read(tmp_path / "a.json", Accuracy),
        predictions.read(tmp_path / "p.npz"),
        prepared.part(AS_FP32),
    )
    assert written.predicted
    assert (written.predicted.images, written.predicted.as_fp32, len(part)) == (4, True, 4)
    assert np.bincount(prepared.labels("val")[part]).max() == 1  # of four images of each class
    outputs = predictor.outputs(prepared.images("val")[part])
    assert np.abs(np.hstack([arrays["logits"], arrays["class_tokens"]]) - outputs).max() < 1e-4


def test_why_there_are_no_predictions_is_written(tmp_path: Path) -> None:
    accuracy.write_unavailable("mine", FP32, "no such instruction", tmp_path / "mine.json", tmp_path / "mine.npz")
    assert form.read(tmp_path / "mine.json", Accuracy) == Accuracy(
        recipe="mine", traits=FP32, unavailable="no such instruction"
    )
    assert predictions.read(tmp_path / "mine.npz") == {}


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
