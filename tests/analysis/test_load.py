"""Results that do not belong together, or are none, are refused by one line."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import handmade
import numpy as np
import pytest
from handmade import ENVIRONMENT, INT8

from vitquant import files
from vitquant.analysis.load import Inputs, load, load_gpus
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy
from vitquant.params import Params
from vitquant.results import form, predictions
from vitquant.results.accuracy import AS_FP32, Accuracy
from vitquant.results.benchmark import Benchmark
from vitquant.results.gpu import Gpu, GpuStudy, array_name
from vitquant.results.profile import Profile
from vitquant.traits import FP32

HERE = "NVIDIA H200"


@pytest.fixture
def inputs(prepared: Prepared, tmp_path: Path) -> Inputs:
    """For the test to change."""
    return handmade.stages(prepared, tmp_path / "stages")


def refusal(params: Params, inputs: Inputs) -> str:
    with pytest.raises(VitquantError) as error:
        load(params, inputs)
    message = str(error.value)
    assert "\n" not in message
    return message


def write_predicted(inputs: Inputs, name: str, **changed: object) -> Path:
    """A recipe's accuracy with other values under `predicted`."""
    file = inputs.accuracy / f"{name}.json"
    result = form.read(file, Accuracy)
    assert result.predicted
    form.write(file, result.model_copy(update={"predicted": result.predicted.model_copy(update=changed)}))
    return file


def test_everything_is_loaded(params: Params, inputs: Inputs) -> None:
    results = load(params, inputs)
    assert (results.profile, results.tails, results.gpus) == (None, None, [])
    assert list(results.evidence) == ["fp32", "dynamic-int8"]
    assert results.facts.model_dump() == {
        "name": "mini", "model": "test_vit", "data": "folder", "eval_images": 24, "classes": 6, "crop": 64,
        "embedding": None,
    }  # fmt: skip
    int8 = results.evidence["dynamic-int8"]
    assert (int8.traits, int8.device, int8.unavailable) == (INT8, "cpu", {})
    assert int8.logits is not None
    assert int8.logits.shape == (24, 6)


def test_the_order_is_that_of_the_parameters(params: Params, inputs: Inputs) -> None:
    turned = params.model_copy(update={"recipes": dict(reversed(params.recipes.items()))})
    evidence = load(turned, inputs).evidence
    assert list(evidence) == ["dynamic-int8", "fp32"]
    assert evidence["dynamic-int8"].cosine is not None  # to fp32's, which comes later


def test_class_tokens_are_compared_with_fp32s(params: Params, inputs: Inputs) -> None:
    tokens = {"fp32": np.tile([3.0, 4.0], (24, 1)), "dynamic-int8": np.tile([3.0, 4.0], (24, 1))}
    tokens["dynamic-int8"][5] = [4.0, -3.0]
    tokens["dynamic-int8"][6] = [40.0, 30.0]
    for name, values in tokens.items():
        file = inputs.predictions / f"{name}.npz"
        predictions.write(file, predictions.read(file) | {"class_tokens": values.astype(np.float32)})
    evidence = load(params, inputs).evidence
    assert evidence["fp32"].cosine == pytest.approx(np.ones(24))
    expected = np.ones(24)
    expected[[5, 6]] = 0.0, 0.96
    assert evidence["dynamic-int8"].cosine == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(24, 3), (23, 6), (24,), (24, 6, 1)])
def test_class_tokens_of_another_shape_are_refused(params: Params, inputs: Inputs, shape: tuple[int, ...]) -> None:
    file = inputs.predictions / "dynamic-int8.npz"
    predictions.write(file, predictions.read(file) | {"class_tokens": np.ones(shape, np.float32)})
    assert refusal(params, inputs).startswith(f"{file}: class_tokens has shape {shape}")


def test_fp32s_predictions_stand_where_a_recipe_predicted_a_part(params: Params, inputs: Inputs) -> None:
    part, own = Prepared(inputs.data).part(AS_FP32), np.arange(4 * 6).reshape(4, 6)
    handmade.write_accuracy(inputs, "dynamic-int8", INT8, own)
    assert "holds predictions of shape (4, 6), the prepared data has 24 images" in refusal(params, inputs)
    file = write_predicted(inputs, "dynamic-int8", as_fp32=True)
    evidence = load(params, inputs).evidence
    found, theirs = evidence["dynamic-int8"].logits, evidence["fp32"].logits
    assert found is not None
    assert theirs is not None
    assert np.array_equal(found[part], own)
    assert np.array_equal(np.delete(found, part, axis=0), np.delete(theirs, part, axis=0))
    accuracy = form.read(inputs.accuracy / "fp32.json", Accuracy)
    absent = accuracy.model_copy(update={"predicted": None, "unavailable": "why"})
    form.write(inputs.accuracy / "fp32.json", absent)
    said = "npz holds a part of the images, and fp32 predicted none of the others: run `dvc repro`"
    assert refusal(params, inputs).endswith(f"{file.stem}.{said}")


BATCH_SCALES = INT8.model_copy(update={"batch_scales": True})


def write_large_batch(inputs: Inputs, large: np.ndarray) -> Path:
    """Logits in large batches of the INT8 recipe, which says that its images affect each other; the predictions."""
    file = inputs.predictions / "dynamic-int8.npz"
    handmade.write_accuracy(inputs, "dynamic-int8", BATCH_SCALES, predictions.read(file)["logits"], large)
    benchmark = form.read(inputs.benchmark, Benchmark)
    benchmark.recipes["dynamic-int8"].traits = BATCH_SCALES
    form.write(inputs.benchmark, benchmark)
    return file


def test_logits_in_large_batches_are_loaded(params: Params, inputs: Inputs) -> None:
    large = np.arange(8 * 6).reshape(8, 6)
    write_large_batch(inputs, large)
    evidence = load(params, inputs).evidence
    assert evidence["dynamic-int8"].large_batch == 32
    assert np.array_equal(evidence["dynamic-int8"].logits_large_batch, large)
    assert (evidence["fp32"].large_batch, evidence["fp32"].logits_large_batch) == (None, None)


@pytest.mark.parametrize(("shape", "bad"), [((24, 6), 0.0), ((8, 5), 0.0), ((8, 6), np.nan)])
def test_logits_in_large_batches_that_cannot_be_are_refused(
    params: Params, inputs: Inputs, shape: tuple[int, int], bad: float
) -> None:
    file = write_large_batch(inputs, np.full(shape, bad))
    said = "logits_large_batch holds what is no finite number" if np.isnan(bad) else f"predictions of shape {shape}"
    assert said in refusal(params, inputs)
    assert str(file) in refusal(params, inputs)


def test_logits_in_large_batches_of_another_run_or_missing_are_refused(params: Params, inputs: Inputs) -> None:
    file = write_large_batch(inputs, np.zeros((8, 6)))
    arrays = predictions.read(file)
    said = f"{file}: logits_large_batch is missing, or of another run than the results beside it: run `dvc repro`"
    predictions.write(file, arrays | {"logits_large_batch": np.ones((8, 6), np.float32)})
    assert refusal(params, inputs) == said
    del arrays["logits_large_batch"]
    predictions.write(file, arrays)
    assert refusal(params, inputs) == said


def test_traits_and_logits_in_large_batches_must_agree(params: Params, inputs: Inputs) -> None:
    write_large_batch(inputs, np.zeros((8, 6)))
    file = inputs.accuracy / "dynamic-int8.json"
    content = files.read_json(file)
    files.write_json(file, content | {"traits": INT8.model_dump(mode="json")})
    assert f"{file}: dynamic-int8 has needless predictions in large batches" in refusal(params, inputs)
    del content["predicted"]["large_batch"]
    files.write_json(file, content)
    assert f"{file}: dynamic-int8 has no predictions in large batches" in refusal(params, inputs)


def test_what_was_not_predicted_has_its_reason(params: Params, inputs: Inputs) -> None:
    for name, traits in (("fp32", FP32), ("dynamic-int8", INT8)):
        files_of_it = inputs.accuracy / f"{name}.json", inputs.predictions / f"{name}.npz"
        accuracy.write_unavailable(name, traits, "the head was never trained", *files_of_it)
    for recipe in load(params, inputs).evidence.values():
        assert (recipe.logits, recipe.cosine) == (None, None)
        assert recipe.unavailable == {"accuracy": "the head was never trained"}
        assert recipe.measured


def test_two_classes_have_no_top5(params: Params, inputs: Inputs, prepared: Prepared, tmp_path: Path) -> None:
    """The same images as two classes."""
    data = tmp_path / "two"
    shutil.copytree(prepared.path, data)
    np.save(data / "val_labels.npy", prepared.labels("val") % 2)
    files.write_json(data / "classes.json", ["even", "odd"])
    for name, traits in (("fp32", FP32), ("dynamic-int8", INT8)):
        handmade.write_accuracy(inputs, name, traits, np.eye(2)[prepared.labels("val") % 2])
    evidence = load(params, dataclasses.replace(inputs, data=data)).evidence
    for name in ("fp32", "dynamic-int8"):
        assert evidence[name].unavailable == {"top5": "top-5 of 2 classes is always 100 %"}


def test_a_profile_of_another_machine_is_refused(params: Params, inputs: Inputs) -> None:
    form.write(inputs.profile, Profile(environment=ENVIRONMENT, batch=1, recipes={}))
    assert load(params, inputs).profile
    elsewhere = ENVIRONMENT.model_copy(update={"host": "cellar"})
    form.write(inputs.profile, Profile(environment=elsewhere, batch=1, recipes={}))
    said = f"{inputs.benchmark} and {inputs.profile} were measured on different machines (host: attic, cellar)"
    assert refusal(params, inputs) == f"{said}: run `dvc repro`"


def test_tails_of_another_machine_or_artifact_are_refused(params: Params, inputs: Inputs) -> None:
    """Or of a recipe that was not timed; those of the same are loaded."""
    found = handmade.tails("dynamic-int8")
    form.write(inputs.tails, found)
    assert load(params, inputs).tails == found
    form.write(inputs.tails, handmade.tails("dynamic-int8", artifact_sha256="12" * 32))
    assert refusal(params, inputs) == (
        f"{inputs.tails} and {inputs.benchmark} are of different artifacts of dynamic-int8 "
        "(SHA-256 121212121212…, abababababab…), as two commits make them: run `dvc repro`"
    )
    form.write(inputs.tails, handmade.tails("static-int8"))
    said = f"{inputs.tails} is of static-int8, which {inputs.benchmark} has no times of: run `dvc repro`"
    assert refusal(params, inputs) == said
    found.timed.environment = ENVIRONMENT.model_copy(update={"host": "cellar"})
    form.write(inputs.tails, found)
    assert f"{inputs.tails} were measured on different machines (host: attic, cellar)" in refusal(params, inputs)


def test_what_a_recommendation_needs_is_loaded_alone(params: Params, inputs: Inputs) -> None:
    """Whatever else lies there."""
    for path in (inputs.profile, inputs.tails):
        path.write_text("no result")
    alone = Inputs(inputs.data, inputs.accuracy, inputs.predictions, inputs.benchmark)
    assert list(load(params, alone).evidence) == ["fp32", "dynamic-int8"]


@pytest.mark.parametrize("key", ["host", "cpu", "cores", "torch"])
def test_accuracy_of_another_machine_is_refused(params: Params, inputs: Inputs, key: str) -> None:
    other = {"cores": 3}.get(key, "another")
    file = write_predicted(inputs, "dynamic-int8", environment=handmade.MACHINE.model_copy(update={key: other}))
    said = f"{inputs.benchmark} and {file} were measured on different machines ({key}: "
    assert refusal(params, inputs).startswith(said)


def test_a_machine_with_more_memory_now_is_the_same_one(params: Params, inputs: Inputs) -> None:
    write_predicted(inputs, "fp32", environment=handmade.MACHINE.model_copy(update={"memory_gb": 2}))
    assert load(params, inputs).evidence


def test_artifacts_of_two_commits_are_refused(params: Params, inputs: Inputs) -> None:
    file = write_predicted(inputs, "dynamic-int8", artifact_sha256="12" * 32)
    assert refusal(params, inputs) == (
        f"{file} and {inputs.benchmark} are of different artifacts of dynamic-int8 "
        "(SHA-256 121212121212…, abababababab…), as two commits make them: run `dvc repro`"
    )


def test_results_of_another_recipe_are_refused(params: Params, inputs: Inputs) -> None:
    """By its name, by what the two files say that it is, and by the number of images."""
    file = inputs.accuracy / "dynamic-int8.json"
    result = form.read(file, Accuracy)
    form.write(file, result.model_copy(update={"recipe": "static-int8"}))
    assert refusal(params, inputs).startswith(f"{file} is of another recipe, static-int8: ")
    form.write(file, result.model_copy(update={"traits": FP32}))
    assert "have different traits of dynamic-int8" in refusal(params, inputs)
    form.write(file, result)
    write_predicted(inputs, "dynamic-int8", images=5)
    assert "the prepared data has 24 images of 6 classes" in refusal(params, inputs)


@pytest.mark.parametrize("name", ["logits", "class_tokens"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1j])
def test_predictions_that_are_no_finite_numbers_are_refused(
    params: Params, inputs: Inputs, name: str, bad: complex
) -> None:
    file = inputs.predictions / "dynamic-int8.npz"
    arrays = predictions.read(file)
    changed = arrays[name] + np.zeros(1, arrays[name].dtype)
    changed = changed.astype(np.complex64) if isinstance(bad, complex) else changed
    changed[0, 0] = bad
    predictions.write(file, arrays | {name: changed})
    if name == "logits":
        write_predicted(inputs, "dynamic-int8", logits_sha256=predictions.digest(changed))
    assert f"{file}: {name} holds what is no finite number" in refusal(params, inputs)


def test_a_batch_size_that_only_others_were_timed_at_is_refused(params: Params, inputs: Inputs) -> None:
    benchmark = form.read(inputs.benchmark, Benchmark)
    fp32 = benchmark.recipes["fp32"].measured
    assert fp32
    del fp32.latency_ms[1]
    fp32.from_file_ms = []
    form.write(inputs.benchmark, benchmark)
    assert "fp32 was not timed at batch 1, as others were" in refusal(params, inputs)


def test_predictions_of_another_run_are_refused(params: Params, inputs: Inputs) -> None:
    file = inputs.predictions / "fp32.npz"
    arrays = predictions.read(file)
    arrays["logits"][0, 0] += 1
    predictions.write(file, arrays)
    said = f"{file}: logits is missing, or of another run than the results beside it: run `dvc repro`"
    assert refusal(params, inputs) == said
    predictions.write(file, {"class_tokens": arrays["class_tokens"]})
    assert refusal(params, inputs) == said


def test_predictions_of_other_data_are_refused(params: Params, inputs: Inputs) -> None:
    handmade.write_accuracy(inputs, "fp32", FP32, np.zeros((7, 6)))
    assert "fp32.npz holds predictions of shape (7, 6), the prepared data has 24 images of 6 classes" in refusal(
        params, inputs
    )


def test_a_baseline_that_was_not_timed_is_refused(params: Params, inputs: Inputs) -> None:
    benchmark = handmade.benchmark()
    fp32, said = benchmark.recipes["fp32"], "fp32, the baseline of every ratio, could not be benchmarked: "
    assert fp32.measured
    fp32.measured.latency_ms, fp32.measured.from_file_ms = {}, []
    form.write(inputs.benchmark, benchmark)
    assert refusal(params, inputs) == f"{said}it was not timed: run `dvc repro`"
    fp32.measured, fp32.unavailable = None, "killed"
    form.write(inputs.benchmark, benchmark)
    assert refusal(params, inputs) == f"{said}killed: run `dvc repro`"
    del benchmark.recipes["fp32"]
    form.write(inputs.benchmark, benchmark)
    assert refusal(params, inputs) == f"{said}it is not there: run `dvc repro`"


@pytest.mark.parametrize("name", ["benchmark.json", "accuracy/fp32.json", "predictions/dynamic-int8.npz"])
def test_a_missing_file_is_named(params: Params, inputs: Inputs, name: str) -> None:
    (inputs.benchmark.parent / name).unlink()
    message = refusal(params, inputs)
    assert message.startswith(str(inputs.benchmark.parent / name))
    assert "dvc repro" in message


def test_a_file_of_version_1_is_refused(params: Params, inputs: Inputs) -> None:
    content = form.dump(form.read(inputs.benchmark, Benchmark))
    del content["version"]
    files.write_json(inputs.benchmark, content)
    assert refusal(params, inputs).startswith(f"{inputs.benchmark} has version 1 of the format")


@pytest.fixture
def cuda(tmp_path: Path) -> Path:
    """The folder of a GPU's results, for the test to change."""
    handmade.write_gpu(tmp_path / "cuda", handmade.gpu_study(HERE))
    return tmp_path / "cuda"


def refusal_of_gpus(cuda: Path) -> str:
    with pytest.raises(VitquantError) as error:
        load_gpus(cuda)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(cuda))
    return message.replace(f"{cuda}/", "")


def test_gpus_are_loaded_with_their_predictions(cuda: Path) -> None:
    handmade.write_gpu(cuda, handmade.gpu_study("NVIDIA T4"))
    (first, arrays), (second, _) = load_gpus(cuda)
    assert (first.device, second.device) == (HERE, "NVIDIA T4")
    assert arrays["tiny-imagenet//labels"].shape == (2000,)
    assert load_gpus(cuda / "nowhere") == []


def test_two_files_of_one_gpu_are_refused(cuda: Path) -> None:
    for kind in ("json", "npz"):
        shutil.copy(cuda / f"nvidia-h200.{kind}", cuda / f"other.{kind}")
    message = refusal_of_gpus(cuda)
    assert message == f"nvidia-h200.json and other.json are both of {HERE}: delete one of them"


def change_gpu(cuda: Path, change: Callable[[GpuStudy], object]) -> None:
    file = cuda / "nvidia-h200.json"
    gpu = form.read(file, Gpu)
    change(gpu.studies["tiny-imagenet"])
    form.write(file, gpu)


def test_a_study_of_another_gpu_in_a_file_is_refused(cuda: Path) -> None:
    change_gpu(cuda, lambda study: setattr(study.environment, "gpu", "NVIDIA T4"))
    message = refusal_of_gpus(cuda)
    assert message == (
        f"nvidia-h200.json mixes machines: study tiny-imagenet was measured on NVIDIA T4, the file is of {HERE}"
    )


def test_a_gpus_study_without_a_baseline_is_refused(cuda: Path) -> None:
    change_gpu(cuda, lambda study: study.recipes.pop("fp32"))
    assert refusal_of_gpus(cuda).startswith("nvidia-h200.json: study tiny-imagenet has no fp32, the baseline")


def test_a_gpus_predictions_that_are_missing_or_of_another_run_are_refused(cuda: Path) -> None:
    file, logits = cuda / "nvidia-h200.npz", array_name("tiny-imagenet", "logits", "int8-compiled")
    arrays = predictions.read(file)
    said = "is missing, or of another run than the results beside it: delete it and measure again"
    predictions.write(file, arrays | {logits: arrays[logits] + 1})
    assert f"nvidia-h200.npz: {logits} {said}" in refusal_of_gpus(cuda)
    file.unlink()
    assert f"nvidia-h200.npz: tiny-imagenet/fp32/logits {said}" in refusal_of_gpus(cuda)
    file.write_bytes(b"PK\x03\x04 half")
    assert refusal_of_gpus(cuda).startswith("nvidia-h200.npz cannot be read")


@pytest.mark.parametrize(
    ("array", "recipe", "value", "message"),
    [
        ("labels", "", None, "tiny-imagenet//labels is missing"),
        ("labels", "", np.zeros(3, np.int64), "tiny-imagenet//labels has shape (3,), not (2000,)"),
        ("labels", "", np.full(2000, 25), "tiny-imagenet//labels holds no indices of 25 classes"),
        ("labels", "", np.full(2000, -1), "tiny-imagenet//labels holds no indices of 25 classes"),
        ("labels", "", np.zeros(2000), "tiny-imagenet//labels holds no indices of 25 classes"),
        ("cosine", "fp32", np.ones(3, np.float32), "tiny-imagenet/fp32/cosine has shape (3,), not (2000,)"),
    ],
)
def test_a_gpus_arrays_that_do_not_fit_are_refused(
    cuda: Path, array: str, recipe: str, value: np.ndarray | None, message: str
) -> None:
    file, name = cuda / "nvidia-h200.npz", array_name("tiny-imagenet", array, recipe)
    arrays = predictions.read(file)
    others = {key: array for key, array in arrays.items() if key != name}
    predictions.write(file, others | ({} if value is None else {name: value}))
    assert refusal_of_gpus(cuda) == f"nvidia-h200.npz: {message}: delete it and measure again"


def test_a_gpus_predictions_of_other_data_are_refused(cuda: Path) -> None:
    change_gpu(cuda, lambda study: setattr(study.study, "eval_images", 1999))
    assert "tiny-imagenet/fp32/logits has shape (2000, 25), not (1999, 25)" in refusal_of_gpus(cuda)


def test_a_gpus_file_of_version_1_is_refused(cuda: Path) -> None:
    files.write_json(cuda / "old.json", {"device": "NVIDIA T4", "quantize_dynamic": "none", "studies": {}})
    message = refusal_of_gpus(cuda)
    assert message.startswith("old.json has version 1 of the format, this is vitquant with version 3: delete it")
