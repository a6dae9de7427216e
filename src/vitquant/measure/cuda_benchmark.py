"""The CUDA benchmark of one model: every recipe's speed, memory, energy and accuracy on the GPU, in one run."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.ao.quantization import quantize_dynamic
from tqdm import tqdm

from vitquant import recipes
from vitquant.artifact import open_artifact
from vitquant.data.prepared import Prepared
from vitquant.data.samples import Split
from vitquant.errors import UnsupportedError
from vitquant.measure import benchmark, energy, environment, neighbours, nvml
from vitquant.measure.products import linear_products
from vitquant.measure.worker import Worker
from vitquant.models import baseline
from vitquant.params import BASELINE, Params, RandomModel
from vitquant.results import predictions
from vitquant.results.benchmark import Measured
from vitquant.results.facts import facts
from vitquant.results.gpu import GpuStudy, array_name


def studies(params: Params, fp32: Path, prepared: Prepared) -> Iterator[tuple[Params, Path]]:
    """The study itself, and those of `cuda.speed_only`: parameters and FP32 artifact, which is there until the next.

    The latter are random weights of other architectures, on the same images: for speed, memory and energy.
    """
    yield params, fp32
    for name in params.cuda.speed_only:
        model = RandomModel(source="random", name=name, seed=0)
        other = params.model_copy(update={"study": name, "model": model, "head": "none"})
        with TemporaryDirectory(prefix="vitquant-") as folder:
            baseline.build(other, Path(folder), prepared, Path(folder) / "fp32", 1)
            yield other, Path(folder) / "fp32"


def run(
    fp32: Path, prepared: Prepared, params: Params, threads: int, device: torch.device
) -> tuple[GpuStudy, dict[str, NDArray[Any]]]:
    """Build the recipes of `params.cuda` from the FP32 artifact, and measure them on `device`.

    Returns:
        The results, and what `results.gpu` says that lies beside them.

    Raises:
        VitquantError: the baseline could not be measured.
    """
    outputs: dict[str, NDArray[np.float32]] = {}
    profiles: dict[str, dict[str, float]] = {}
    consumed: dict[str, Any] = {}
    copy_ms: dict[int, float] = {}
    with TemporaryDirectory(prefix="vitquant-") as folder:
        paths = _build(fp32, prepared, params, Path(folder))
        monitor = nvml.Monitor()

        def finish(workers: dict[str, Worker], recipes: benchmark.Recipes) -> None:
            found = benchmark.measured(recipes)
            consumed.update(energy.measure(lambda: nvml.joules, workers, found, params.cuda.energy_seconds, max))
            for name, worker in tqdm(workers.items(), desc="benchmark: accuracy", unit="recipe"):
                found[name].process_memory_bytes = nvml.process_memory(worker.pid)
                try:
                    outputs[name] = _outputs(worker, fp32, prepared, params, threads)
                except UnsupportedError as reason:
                    found[name].unavailable_accuracy = str(reason)
                if name in params.cuda.profile and found[name].latency_ms:
                    kinds = worker.ask_if_alive("profile", max(found[name].latency_ms))
                    profiles.update({name: kinds} if kinds else {})
            copy_ms.update(_copy_ms(workers, found))  # at the end: it takes memory

        launched = benchmark.run(
            paths, prepared.path, params.cuda, threads, device, between=monitor.sample, finish=finish
        )
    recipes = launched.recipes
    arrays = _arrays(outputs, prepared, params.study)
    for name in outputs:
        benchmark.measured(recipes)[name].logits_sha256 = predictions.digest(
            arrays[array_name(params.study, "logits", name)]
        )
    study = GpuStudy(
        date=datetime.now(UTC).date().isoformat(),
        study=facts(params, prepared),
        environment=environment.environment(**nvml.describe(), **monitor.summary()),
        conditions=launched.conditions,
        repeated=launched.repeated,
        **consumed,
        copy_ms=copy_ms,
        products_per_image=linear_products(open_artifact(fp32)),
        recipes=recipes,
        profile=profiles,
    )
    return study, arrays


def _arrays(outputs: dict[str, NDArray[np.float32]], prepared: Prepared, study: str) -> dict[str, NDArray[Any]]:
    """What lies beside the results, of logits and class tokens, float32 (N, C + D), by recipe."""
    if not outputs:
        return {}
    arrays: dict[str, NDArray[Any]] = {array_name(study, "labels"): prepared.labels("val")}
    split = {name: np.split(both, [len(prepared.classes)], axis=1) for name, both in outputs.items()}
    for name, (logits, class_tokens) in split.items():
        arrays[array_name(study, "logits", name)] = logits
        if BASELINE in split:
            arrays[array_name(study, "cosine", name)] = predictions.cosine(class_tokens, split[BASELINE][1])
    return arrays


def _build(fp32: Path, prepared: Prepared, params: Params, folder: Path) -> list[Path]:
    """The artifacts, in the order of params.yaml."""
    calibration = prepared.calibration(params.calibration)
    for name, recipe in tqdm(params.cuda.recipes.items(), desc="benchmark: build", unit="recipe"):
        recipes.build(name, recipe, fp32, folder / name, calibration)
    return [folder / name for name in params.cuda.recipes]


def _copy_ms(workers: dict[str, Worker], recipes: dict[str, Measured]) -> dict[int, float]:
    """Milliseconds of copying a batch to the GPU, by its size, in the first process that can."""
    seconds: dict[int, float] = {}
    for name, worker in workers.items():
        for size in sorted(recipes[name].latency_ms.keys() - seconds.keys()):
            if (taken := worker.ask_if_alive("copy", size)) is not None:
                seconds[size] = taken
    return {size: round(1000 * seconds[size], 5) for size in sorted(seconds)}


def _outputs(worker: Worker, fp32: Path, prepared: Prepared, params: Params, threads: int) -> NDArray[np.float32]:
    """Logits and embeddings of the validation images, float32 (N, C + D); logits by neighbours, where it has none."""
    spec = open_artifact(fp32).spec
    if spec.no_accuracy:
        raise UnsupportedError(spec.no_accuracy)

    def of(split: Split) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = worker.ask("outputs", params.evaluate, threads, split)
        if not np.isfinite(outputs).all():
            raise UnsupportedError("NaN or infinite logits: the range of its type is too small for this model")
        return outputs

    outputs = of("val")
    if spec.classes:
        return outputs
    labels, classes = prepared.labels("train"), len(prepared.classes)
    return np.hstack([neighbours.votes(of("train"), labels, outputs, classes, params.embedding)[0], outputs])


def quantize_dynamic_error(device: torch.device) -> str:
    """The first line of what PyTorch says when a layer of `quantize_dynamic` runs on `device`; or that it ran."""
    layer = quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), {nn.Linear})
    try:
        layer.to(device)(torch.zeros(1, 8, device=device))
    except (RuntimeError, NotImplementedError) as error:
        return str(error).partition("\n")[0].partition(". ")[0]
    return f"none: it ran on {device.type}"
