"""Loading what the stages left, once, and refusing what does not belong together.

That is results of two machines, of two versions of an artifact or of the data, and what is no result at all: it may
come from somebody else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant.analysis.estimates import Evidence
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.params import BASELINE, Params
from vitquant.results import form, predictions
from vitquant.results.accuracy import Accuracy, Predicted
from vitquant.results.benchmark import Benchmark, Benchmarked
from vitquant.results.environment import Machine
from vitquant.results.facts import Facts, facts
from vitquant.results.gpu import Gpu, GpuStudy, array_name
from vitquant.results.profile import Profile
from vitquant.results.tails import Tails

MACHINE = ("host", "cpu", "cores", "torch")  # what must be the same in every result of a run
MEND, MEND_GPU = "run `dvc repro`", "delete it and measure again"
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Inputs:
    """Where the stages before left their results; of the last four there may be none."""

    data: Path
    accuracy: Path
    predictions: Path
    benchmark: Path
    profile: Path | None = None
    cuda: Path | None = None
    draws: Path | None = None
    tails: Path | None = None


@dataclass(frozen=True)
class Results:
    """All that a report is made from."""

    prepared: Prepared
    facts: Facts
    benchmark: Benchmark
    evidence: dict[str, Evidence]
    profile: Profile | None
    gpus: list[tuple[Gpu, Arrays]]
    tails: Tails | None


def load(params: Params, inputs: Inputs) -> Results:
    """Everything that the stages left of the study, and of GPUs.

    Raises:
        VitquantError: a result is missing or unreadable, results do not belong together, or the baseline itself
            could not be measured.
    """
    prepared = Prepared(inputs.data)
    benchmark = form.read(inputs.benchmark, Benchmark)
    fp32 = benchmark.recipes.get(BASELINE, Benchmarked.model_construct(measured=None, unavailable="it is not there"))
    if not fp32.measured or not fp32.measured.latency_ms:
        reason = fp32.unavailable or "it was not timed"
        raise VitquantError(f"{BASELINE}, the baseline of every ratio, could not be benchmarked: {reason}: {MEND}")
    sizes = {size for found in benchmark.recipes.values() if found.measured for size in found.measured.latency_ms}
    if sizes - fp32.measured.latency_ms.keys():
        size = min(sizes - fp32.measured.latency_ms.keys())
        raise VitquantError(
            f"{inputs.benchmark}: {BASELINE} was not timed at batch {size}, as others were: take that size out of "
            "benchmark.batches, where it cannot run"
        )
    machines: dict[Path, Machine] = {inputs.benchmark: benchmark.environment}
    profile = tails = None
    if inputs.profile and inputs.profile.exists():
        profile = form.read(inputs.profile, Profile)
        machines[inputs.profile] = profile.environment
    if inputs.tails and inputs.tails.exists():
        tails = form.read(inputs.tails, Tails)
        if tails.timed:
            machines[inputs.tails] = tails.timed.environment
            timed = benchmark.recipes.get(tails.timed.recipe)
            _check_artifact(inputs.tails, tails.timed.recipe, tails.timed.artifact_sha256, inputs.benchmark, timed)
    evidence = _evidence(params, inputs, prepared, benchmark, machines)
    check_machines(machines)
    gpus = load_gpus(inputs.cuda) if inputs.cuda else []
    return Results(prepared, facts(params, prepared), benchmark, evidence, profile, gpus, tails)


def _evidence(
    params: Params, inputs: Inputs, prepared: Prepared, benchmark: Benchmark, machines: dict[Path, Machine]
) -> dict[str, Evidence]:
    """What there is of each recipe; the machines of its files are added to `machines`."""
    evidence: dict[str, Evidence] = {}
    baseline: dict[str, NDArray[np.float32]] = {}
    for name in (BASELINE, *(name for name in params.recipes if name != BASELINE)):
        file = inputs.accuracy / f"{name}.json"
        accuracy, timed = form.read(file, Accuracy), benchmark.recipes.get(name)
        _check_recipe(file, name, accuracy, inputs.benchmark, timed)
        unavailable, arrays = {}, {}
        large_batch = accuracy.predicted.large_batch if accuracy.predicted else None
        if accuracy.predicted:
            machines[file] = accuracy.predicted.environment
            arrays = _predictions(inputs.predictions / f"{name}.npz", accuracy.predicted, prepared, baseline)
            baseline = arrays if name == BASELINE else baseline
            if len(prepared.classes) <= 5:  # noqa: PLR2004
                unavailable["top5"] = f"top-5 of {len(prepared.classes)} classes is always 100 %"
        else:
            unavailable["accuracy"] = accuracy.unavailable or "no reason was given"
        if not timed or not timed.measured:
            unavailable["benchmark"] = (timed and timed.unavailable) or "not in the benchmark"
        elif timed.measured.slow:
            unavailable["all but the first batches"] = timed.measured.slow
        if timed and timed.measured:
            unavailable |= {f"batch {size}": why for size, why in timed.measured.unavailable_batches.items()}
        evidence[name] = Evidence(
            traits=accuracy.traits,
            measured=timed.measured if timed else None,
            device=accuracy.predicted.device if accuracy.predicted else "cpu",
            logits=arrays.get("logits"),
            large_batch=large_batch.size if large_batch else None,
            logits_large_batch=arrays.get("logits_large_batch"),
            part=prepared.part(accuracy.predicted.one_of) if accuracy.predicted else None,
            as_fp32=bool(accuracy.predicted and accuracy.predicted.as_fp32),
            cosine=_cosine(inputs.predictions / f"{name}.npz", arrays, baseline),
            nearest=_nearest(inputs.predictions / f"{name}.npz", accuracy, prepared)
            if params.head == "features"
            else None,
            unavailable=unavailable,
        )
    return {name: evidence[name] for name in params.recipes}


def _predictions(
    file: Path, predicted: Predicted, prepared: Prepared, baseline: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What `results.accuracy` says that the file holds: logits, float32 (N, C), and class tokens, float32 (N, D).

    Where it holds a part of the images alone, the baseline's stand for the others.
    """
    if not file.exists():
        raise VitquantError(f"{file} is missing: {MEND}")
    arrays = predictions.read(file)
    part, classes = prepared.part(predicted.one_of), len(prepared.classes)
    images = len(part) if predicted.as_fp32 else len(prepared.labels("val"))
    if predicted.as_fp32 and not baseline:
        raise VitquantError(f"{file} holds a part of the images, and {BASELINE} predicted none of the others: {MEND}")
    digests = {"logits": predicted.logits_sha256}
    if predicted.large_batch:
        digests["logits_large_batch"] = predicted.large_batch.logits_sha256
    found = {name: _logits(file, arrays, name, sha256) for name, sha256 in digests.items()}
    for name, logits in found.items():
        expected = images if name == "logits" else len(part)
        if logits.shape != (expected, classes) or predicted.images != images:
            raise VitquantError(
                f"{file} holds predictions of shape {logits.shape}, the prepared data has {expected} images of "
                f"{classes} classes: {MEND}"
            )
    if "class_tokens" in arrays:
        tokens = arrays["class_tokens"]
        if tokens.ndim != 2 or len(tokens) != images:  # noqa: PLR2004
            raise VitquantError(f"{file}: class_tokens has shape {tokens.shape}, there are {images} images: {MEND}")
        found["class_tokens"] = _finite(file, "class_tokens", tokens)
    return _completed(file, found, part, baseline) if predicted.as_fp32 else found


def _completed(
    file: Path,
    found: dict[str, NDArray[np.float32]],
    part: NDArray[np.int64],
    baseline: Mapping[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.float32]]:
    """Arrays of the rows `part`, (M, …), put into the baseline's, (N, …)."""
    whole = {}
    for name, array in found.items():
        if name not in baseline or baseline[name].shape[1:] != array.shape[1:]:
            raise VitquantError(f"{file}: {name} has shape {array.shape}, unlike {BASELINE}'s: {MEND}")
        whole[name] = baseline[name].copy()
        whole[name][part] = array
    return whole


def _nearest(file: Path, accuracy: Accuracy, prepared: Prepared) -> NDArray[np.int64] | None:
    """Of each validation image the nearest one of the train split, (N,)."""
    if not accuracy.predicted:
        return None
    nearest = predictions.read(file).get("nearest", np.empty(0))
    if nearest.shape != prepared.labels("val").shape or not _are_indices(nearest, len(prepared.labels("train"))):
        raise VitquantError(f"{file}: nearest is missing, or holds no rows of the train split: {MEND}")
    return np.asarray(nearest, dtype=np.int64)


def _cosine(
    file: Path, arrays: Mapping[str, NDArray[np.float32]], baseline: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    """Of each image's class token to FP32's, where both are there."""
    if "class_tokens" not in arrays or "class_tokens" not in baseline:
        return None
    ours, theirs = arrays["class_tokens"], baseline["class_tokens"]
    if ours.shape != theirs.shape:
        raise VitquantError(f"{file}: class_tokens has shape {ours.shape}: {MEND}")
    return predictions.cosine(ours, theirs)


def load_gpus(folder: Path) -> list[tuple[Gpu, Arrays]]:
    """Every GPU's results and the predictions beside them; none where there is no folder.

    Raises:
        VitquantError: a file is damaged or of another version, two are about the same device, one mixes devices, or a
            study there has no baseline, or not the predictions that belong to it.
    """
    gpus: list[tuple[Gpu, Arrays]] = []
    seen: dict[str, Path] = {}
    for file in sorted(folder.glob("*.json")):
        gpu = form.read(file, Gpu, MEND_GPU)
        if gpu.device in seen:
            raise VitquantError(f"{seen[gpu.device]} and {file} are both of {gpu.device}: delete one of them")
        seen[gpu.device] = file
        arrays_file = file.with_suffix(".npz")
        arrays = predictions.read(arrays_file) if arrays_file.exists() else {}
        for name, study in gpu.studies.items():
            if study.environment.gpu != gpu.device:
                raise VitquantError(
                    f"{file} mixes machines: study {name} was measured on {study.environment.gpu}, the file is of "
                    f"{gpu.device}"
                )
            if BASELINE not in study.recipes:
                raise VitquantError(f"{file}: study {name} has no {BASELINE}, the baseline of every ratio: {MEND_GPU}")
            _check_predictions(arrays_file, arrays, name, study)
        gpus.append((gpu, arrays))
    return gpus


def _check_predictions(file: Path, arrays: Arrays, name: str, study: GpuStudy) -> None:
    """Raise VitquantError where arrays are not of the study `name` on a GPU, or cannot be."""
    images, classes = study.study.eval_images, study.study.classes
    shapes: dict[str, tuple[int, ...]] = {}
    for recipe, found in study.recipes.items():
        if found.measured and found.measured.logits_sha256:
            logits = array_name(name, "logits", recipe)
            _logits(file, arrays, logits, found.measured.logits_sha256, MEND_GPU)
            labels, cosine = array_name(name, "labels"), array_name(name, "cosine", recipe)
            shapes |= {logits: (images, classes), labels: (images,)} | ({cosine: (images,)} if cosine in arrays else {})
    for key, shape in shapes.items():
        if key not in arrays:
            raise VitquantError(f"{file}: {key} is missing: {MEND_GPU}")
        if arrays[key].shape != shape:
            raise VitquantError(f"{file}: {key} has shape {arrays[key].shape}, not {shape}: {MEND_GPU}")
        if "/cosine" in key and np.abs(_finite(file, key, arrays[key], MEND_GPU)).max(initial=0) > 1.001:  # noqa: PLR2004
            raise VitquantError(f"{file}: {key} holds what is no cosine: {MEND_GPU}")
        if key == array_name(name, "labels") and not _are_indices(arrays[key], classes):
            raise VitquantError(f"{file}: {key} holds no indices of {classes} classes: {MEND_GPU}")


def _are_indices(labels: NDArray[Any], classes: int) -> bool:
    return labels.dtype.kind == "i" and bool(labels.size and labels.min() >= 0 and labels.max() < classes)


def check_machines(machines: Mapping[Path, Machine]) -> None:
    """Raise VitquantError where two files were measured on different machines."""
    (first, expected), *others = machines.items()
    for file, machine in others:
        for key in MACHINE:
            ours, theirs = getattr(expected, key), getattr(machine, key)
            if ours != theirs:
                raise VitquantError(
                    f"{first} and {file} were measured on different machines ({key}: {ours}, {theirs}): {MEND}"
                )


def _check_recipe(file: Path, name: str, accuracy: Accuracy, benchmark_file: Path, timed: Benchmarked | None) -> None:
    """Raise VitquantError where accuracy and speed are of different recipes, or of different artifacts of one."""
    if accuracy.recipe != name:
        raise VitquantError(f"{file} is of another recipe, {accuracy.recipe}: {MEND}")
    if timed and timed.traits != accuracy.traits:
        raise VitquantError(f"{file} and {benchmark_file} have different traits of {name}: {MEND}")
    if accuracy.predicted and timed and timed.measured:
        _check_artifact(file, name, accuracy.predicted.artifact_sha256, benchmark_file, timed)


def _check_artifact(file: Path, name: str, ours: str, benchmark_file: Path, timed: Benchmarked | None) -> None:
    """Raise VitquantError where the artifact that a file is about, by its SHA-256, is not the one that was timed."""
    if not timed or not timed.measured:
        raise VitquantError(f"{file} is of {name}, which {benchmark_file} has no times of: {MEND}")
    theirs = timed.measured.artifact_sha256
    if ours != theirs:
        raise VitquantError(
            f"{file} and {benchmark_file} are of different artifacts of {name} "
            f"(SHA-256 {ours[:12]}…, {theirs[:12]}…), as two commits make them: {MEND}"
        )


def _logits(file: Path, arrays: Arrays, name: str, sha256: str, mend: str = MEND) -> NDArray[np.float32]:
    """The logits that a result belongs to, float32 (N, C)."""
    if name not in arrays or predictions.digest(arrays[name]) != sha256:
        raise VitquantError(f"{file}: {name} is missing, or of another run than the results beside it: {mend}")
    return _finite(file, name, arrays[name], mend)


def _finite(file: Path, name: str, array: NDArray[Any], mend: str = MEND) -> NDArray[np.float32]:
    """An array of real, finite numbers, as float32."""
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise VitquantError(f"{file}: {name} holds what is no finite number: {mend}")
    return np.asarray(array, dtype=np.float32)
