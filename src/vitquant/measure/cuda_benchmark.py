"""The CUDA benchmark of one model: every recipe's speed, memory, energy and accuracy on the GPU, in one run."""

from collections.abc import Iterator
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
from vitquant.errors import UnsupportedError
from vitquant.measure import benchmark, environment, nvml
from vitquant.measure.worker import Worker
from vitquant.models import baseline
from vitquant.params import Params, RandomModel


def studies(params: Params, fp32: Path, prepared: Prepared) -> Iterator[tuple[Params, Path]]:
    """The study itself, and those of `cuda.speed_only`: parameters and FP32 artifact, which is there until the next.

    The latter are random weights of other architectures, on the same images: for speed, memory and energy.
    """
    yield params, fp32
    for name in params.cuda.speed_only:
        model = RandomModel(source="random", name=name, seed=0)
        own = params.model_copy(update={"study": name, "model": model, "head": "none"})
        with TemporaryDirectory(prefix="vitquant-") as folder:
            baseline.build(own, Path(folder), prepared, Path(folder) / "fp32", 1)
            yield own, Path(folder) / "fp32"


def run(
    fp32: Path, prepared: Prepared, params: Params, threads: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Build the recipes of `params.cuda` from the FP32 artifact, and measure them on `device`.

    Returns:
        The results, and by recipe the logits of the validation images, float32 (N, C), where they mean something.
        The results are `environment`; `recipes`, as `benchmark.started` and `interleave` give them, and in each
        `process_memory_bytes`, `energy_mj` (per image) and `unavailable_accuracy`, where known; and `profile`, by
        recipe, milliseconds per image by kind of kernel.
    """
    results: benchmark.Results
    with TemporaryDirectory(prefix="vitquant-") as folder:
        paths = _build(fp32, prepared, params, Path(folder))
        monitor = nvml.Monitor()
        with benchmark.started(paths, prepared.path, params.cuda, threads, device) as (workers, results):
            benchmark.interleave(workers, results, params.cuda, between=monitor.sample)
            logits = {}
            for name, worker in tqdm(workers.items(), desc="benchmark: energy, accuracy", unit="recipe"):
                memory = nvml.process_memory(worker.pid)
                if memory:
                    results[name]["process_memory_bytes"] = memory
                size = max(map(int, results[name]["latency_ms"]), default=0)
                if size:
                    results[name]["energy_mj"] = _energy(worker, size, params.cuda.energy_seconds)
                    monitor.sample()
                try:
                    logits[name] = _logits(worker, fp32, params, threads)
                except UnsupportedError as reason:
                    results[name]["unavailable_accuracy"] = str(reason)
            profiles = {
                name: worker.ask("profile", max(map(int, results[name]["latency_ms"])))
                for name, worker in workers.items()
                if name in params.cuda.profile and results[name]["latency_ms"]
            }
    return {
        "environment": {
            **environment.machine(),
            **nvml.describe(),
            **monitor.summary(),
            "git_commit": environment.git_commit() or "unknown: not a git checkout",
        },
        "recipes": results,
        "profile": profiles,
    }, logits


def _build(fp32: Path, prepared: Prepared, params: Params, folder: Path) -> list[Path]:
    """The artifacts, in the order of params.yaml."""
    calibration = prepared.calibration(params.calibration)
    for name, recipe in tqdm(params.cuda.recipes.items(), desc="benchmark: build", unit="recipe"):
        recipes.build(name, recipe, fp32, folder / name, calibration)
    return [folder / name for name in params.cuda.recipes]


def _energy(worker: Worker, size: int, seconds: float) -> dict[str, float]:
    """Millijoules per image at batch `size`, idle power included; empty where NVML does not say."""
    before = nvml.energy_mj()
    if before is None:
        return {}
    passes = worker.ask("repeat", size, seconds)
    after = nvml.energy_mj()
    return {} if after is None else {str(size): (after - before) / (passes * size)}


def _logits(worker: Worker, fp32: Path, params: Params, threads: int) -> NDArray[np.float32]:
    reason = open_artifact(fp32).spec.no_accuracy
    if reason:
        raise UnsupportedError(reason)
    logits: NDArray[np.float32] = worker.ask("logits", params.evaluate, threads)
    if not np.isfinite(logits).all():
        raise UnsupportedError("NaN or infinite logits: the range of its type is too small for this model")
    return logits


def quantize_dynamic_error(device: torch.device) -> str:
    """The first line of what PyTorch says when a layer of `quantize_dynamic` runs on `device`; or that it ran."""
    layer = quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), {nn.Linear})
    try:
        layer.to(device)(torch.zeros(1, 8, device=device))
    except (RuntimeError, NotImplementedError) as error:
        return str(error).partition("\n")[0].partition(". ")[0]
    return f"none: it ran on {device.type}"
