"""The CPU benchmark: latency, memory and size of every artifact, in one run.

One fresh process per artifact measures the memory that loading and predicting takes, then stays, warm.
The driver visits the processes in turn. Interleaving lets slow and fast phases of a shared machine hit
every recipe alike, so that the ratio of two recipes within a round is far steadier than either time.
"""

import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vitquant import recipes
from vitquant.artifact import open_artifact
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError
from vitquant.measure import environment, memory
from vitquant.measure.worker import Worker
from vitquant.params import Batch, Benchmark

MEMORY_PASSES = 3  # at batch 1, after which memory has settled


def run(artifacts: Sequence[Path], data: Path, params: Benchmark, threads: int) -> dict[str, Any]:
    """Measure everything; the content of results/benchmark.json.

    Returns:
        `environment`, and `recipes`: by the artifact's name either `unavailable`, or `latency_ms` (batch size to
        milliseconds per batch, one a round; the same index is the same round), `memory_bytes` (`model`: growth
        of the process from before loading to after inference; `peak`: the highest growth) and `size_bytes`.
    """
    results: dict[str, dict[str, Any]] = {}
    workers: dict[str, Worker] = {}
    sizes = [batch.size for batch in params.batches]
    try:
        for artifact in tqdm(artifacts, desc="benchmark: load", unit="recipe"):
            worker = Worker(_serve, artifact, data, sizes, params.warmup, threads)
            try:
                memory_bytes = worker.receive()
                worker.receive()
            except UnsupportedError as reason:
                results[artifact.name] = {"unavailable": str(reason)}
                continue
            workers[artifact.name] = worker
            size = open_artifact(artifact).size_bytes
            results[artifact.name] = {"latency_ms": {}, "memory_bytes": memory_bytes, "size_bytes": size}
        for name, times in _interleave(workers, params.batches, params.seed).items():
            results[name]["latency_ms"] = times
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "environment": {
            **environment.machine(),
            "threads": threads,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "git_commit": environment.git_commit() or "unknown: not a git checkout",
        },
        "recipes": results,
    }


def _interleave(
    workers: Mapping[str, Worker], batches: Sequence[Batch], seed: int
) -> dict[str, dict[str, list[float]]]:
    """Visit the workers in turn, in an order drawn anew for each round; milliseconds per pass."""
    names, order = list(workers), np.random.default_rng(seed)
    times: dict[str, dict[str, list[float]]] = {name: {str(batch.size): [] for batch in batches} for name in names}
    with tqdm(total=sum(batch.rounds for batch in batches) * len(names), desc="benchmark: time", unit="pass") as bar:
        for batch in batches:
            for _ in range(batch.rounds):
                for name in order.permutation(names):
                    workers[name].send(batch.size)
                    times[name][str(batch.size)].append(round(1000 * workers[name].receive(), 3))
                    bar.update()
    return times


def _serve(
    connection: Connection, artifact: Path, data: Path, batch_sizes: Sequence[int], warmup: int, threads: int
) -> None:
    """In the worker: load, answer with the memory it took, warm up; then time a pass for each batch size received."""
    torch.set_num_threads(threads)
    recipes.method(open_artifact(artifact).spec.method)  # imports the libraries that the recipe needs
    images = Prepared(data).images("val")
    image = np.array(images[:1])
    before = memory.resident()
    memory.reset_peak()
    predictor = recipes.load(artifact)
    for _ in range(MEMORY_PASSES):
        predictor(image)
    connection.send({"model": memory.resident() - before, "peak": memory.peak() - before})
    inputs = {size: predictor.preprocess(images[np.arange(size) % len(images)]) for size in batch_sizes}
    for size in batch_sizes:
        for _ in range(warmup):
            predictor.forward(inputs[size])
    connection.send("warm")
    small = inputs[min(batch_sizes)]
    while True:
        batch = inputs[connection.recv()]
        predictor.forward(small)  # untimed: since the last visit the caches were another process's
        start = time.perf_counter()
        predictor.forward(batch)
        connection.send(time.perf_counter() - start)
