"""The benchmark: latency, memory and size of every artifact, in one run, on the CPU or a GPU.

One fresh process per artifact measures the memory that loading and predicting takes, then stays, warm.
The driver visits the processes in turn. Interleaving lets slow and fast phases of a shared machine hit
every recipe alike, so that the ratio of two recipes within a round is far steadier than either time.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vitquant import recipes
from vitquant.artifact import CPU, open_artifact
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError
from vitquant.measure import environment, memory, profiler, slowness
from vitquant.measure.worker import Worker
from vitquant.parallel import map_batches
from vitquant.params import BASELINE, Benchmark, Evaluate

MEMORY_PASSES = 3  # at batch 1, after which memory has settled
Results = dict[str, dict[str, Any]]


def run(artifacts: Sequence[Path], data: Path, params: Benchmark, threads: int, max_slowdown: float) -> dict[str, Any]:
    """Measure everything on the CPU; the content of results/benchmark.json: `environment` and `recipes`."""
    with started(artifacts, data, params, threads, CPU) as (workers, results):
        interleave(workers, results, params, max_slowdown=max_slowdown)
    return {
        "environment": {
            **environment.machine(),
            "threads": threads,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "git_commit": environment.git_commit() or "unknown: not a git checkout",
        },
        "recipes": results,
    }


@contextmanager
def started(
    artifacts: Sequence[Path], data: Path, params: Benchmark, threads: int, device: torch.device
) -> Iterator[tuple[dict[str, Worker], Results]]:
    """A warm process for every artifact that can run here, and what is known of each so far.

    Results are by the artifact's name `traits`, and either `unavailable`, or `memory_bytes` (`model`: growth of the
    process, on a GPU of its allocations there, from before loading to after inference at batch 1; `peak`: the highest
    growth, on a GPU at any batch size), `size_bytes`, `artifact_sha256`, and `unavailable_batches` (batch size to why
    it cannot be run), if any.
    On the CPU one process loads after another; on a GPU, where loading means minutes of compiling for each batch size,
    all at once, and every size is warmed up.
    """
    workers: dict[str, Worker] = {}
    results: Results = {}

    def start(artifact: Path) -> Worker:
        workers[artifact.name] = Worker(_serve, artifact, data, params, threads, device)
        return workers[artifact.name]

    try:
        if device.type != "cpu":
            for artifact in artifacts:
                start(artifact)
        for artifact in tqdm(artifacts, desc="benchmark: load", unit="recipe"):
            worker = workers.get(artifact.name) or start(artifact)
            opened = open_artifact(artifact)
            results[artifact.name] = {"traits": opened.spec.traits.model_dump(mode="json")}
            try:
                warm = worker.receive()
            except UnsupportedError as reason:
                results[artifact.name] |= {"unavailable": str(reason)}
                workers.pop(artifact.name).close()
                continue
            facts = {"size_bytes": opened.size_bytes, "artifact_sha256": opened.sha256}
            results[artifact.name] |= {"latency_ms": {}, **warm, **facts}
        yield workers, results
    finally:
        for worker in workers.values():
            worker.close()


def interleave(
    workers: dict[str, Worker],
    results: Results,
    params: Benchmark,
    between: Callable[[], None] = lambda: None,
    max_slowdown: float = math.inf,
) -> None:
    """Visit the workers in turn, in an order drawn anew for each round; call `between` after every round.

    Adds `latency_ms` to each recipe's results: batch size to milliseconds per batch, one a round; the same index is
    the same round. A recipe whose first rounds take `max_slowdown` times as long as the baseline's is not visited
    again: it gets `slow`, the reason.
    """
    order = np.random.default_rng(params.seed)
    with tqdm(total=sum(batch.rounds for batch in params.batches), desc="benchmark: time", unit="round") as bar:
        for batch in params.batches:
            size = str(batch.size)
            names = []
            for name, worker in workers.items():
                if "slow" in results[name]:
                    continue
                reason = worker.ask("warm_up", batch.size, params.warmup)
                if reason:
                    results[name].setdefault("unavailable_batches", {})[size] = reason
                else:
                    results[name]["latency_ms"][size] = []
                    names.append(name)
            for number in range(batch.rounds):
                if number == slowness.PASSES:
                    _mark_slow(results, names, size, max_slowdown)
                    names = [name for name in names if "slow" not in results[name]]
                for name in order.permutation(names):
                    seconds = workers[name].ask("time", batch.size, batch.passes)
                    results[name]["latency_ms"][size].append(round(1000 * seconds, 4))
                between()
                bar.update()


def _mark_slow(results: Results, names: list[str], size: str, limit: float) -> None:
    """Note which recipes' first rounds at batch `size` took more than `limit` times the baseline's."""
    medians = {name: float(np.median(results[name]["latency_ms"][size])) for name in names}
    for name, median in medians.items():
        if name != BASELINE and median > limit * medians.get(BASELINE, math.inf):
            results[name]["slow"] = slowness.describe(median / medians[BASELINE], limit)


def _serve(
    connection: Connection, artifact: Path, data: Path, params: Benchmark, threads: int, device: torch.device
) -> None:
    """In the worker: load and warm up, answer with the memory it took; then answer (method, *arguments)."""
    torch.set_num_threads(threads)
    recipes.method(open_artifact(artifact).spec.method)  # imports the libraries that the recipe needs
    session = Session(artifact, Prepared(data), device)
    if device.type != "cpu":
        for batch in params.batches:
            session.warm_up(batch.size, params.warmup)
    connection.send({"memory_bytes": session.memory()})
    while True:
        method, *arguments = connection.recv()
        connection.send(getattr(session, method)(*arguments))


class Session:
    """One loaded artifact, in its own process."""

    def __init__(self, artifact: Path, prepared: Prepared, device: torch.device) -> None:
        self._device = device
        self._images = prepared.images("val")
        self._inputs: dict[int, Tensor] = {}
        self._unavailable: dict[int, str] = {}
        image = np.array(self._images[:1])
        if device.type == "cuda":
            torch.cuda.init()
        before = memory.in_use(device)
        memory.reset_peak(device)
        try:
            self._predictor = recipes.load(artifact, device)
            if self._predictor.device.type != device.type:
                raise UnsupportedError(f"its method has no kernels for {device.type}")
            for _ in range(MEMORY_PASSES):
                self._predictor(image)
        except RuntimeError as error:
            raise UnsupportedError(_out_of_memory(error)) from None
        self._before, self._model = before, memory.in_use(device) - before
        self._peak = memory.peak(device) - before

    def memory(self) -> dict[str, int]:
        """`model` and `peak`, bytes, as `started` says."""
        peak = self._peak if self._device.type == "cpu" else memory.peak(self._device) - self._before
        return {"model": self._model, "peak": peak}

    def warm_up(self, size: int, passes: int) -> str:
        """Run `passes` batches of `size`, unless that was done; why such a batch cannot be run, or nothing."""
        if size not in self._inputs and size not in self._unavailable:
            try:
                inputs = self._predictor.preprocess(self._images[np.arange(size) % len(self._images)])
                for _ in range(passes):
                    self._predictor.forward(inputs)
                self._inputs[size] = inputs
            except RuntimeError as error:
                self._unavailable[size] = _out_of_memory(error)
        return self._unavailable.get(size, "")

    def time(self, size: int, passes: int) -> float:
        """Seconds per batch of `size` over `passes` of them.

        An untimed pass comes first: since the last visit the caches, or the GPU, were another process's.
        """
        self._predictor.forward(self._inputs[min(self._inputs) if self._device.type == "cpu" else size])
        with Stopwatch(self._device) as watch:
            for _ in range(passes):
                self._predictor.forward(self._inputs[size])
        return watch.seconds / passes

    def repeat(self, size: int, seconds: float) -> int:
        """Predict batches of `size` for `seconds`; how many."""
        passes, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.time(size, passes=1)
            passes += 2
        return passes

    def logits(self, params: Evaluate, threads: int) -> NDArray[np.float32]:
        """Of the validation images, float32 (N, C), in batches of the largest size that runs."""
        largest = max(self._inputs)

        def forward(images: Tensor) -> Tensor:  # the last batch is filled up: another size would be compiled anew
            full = torch.cat([images, images[:1].expand(largest - len(images), -1, -1, -1)])
            return self._predictor.forward(self._predictor.preprocess(full))[: len(images)]

        sizes = params.model_copy(update={"batch_size": largest, "cuda_batch_size": largest})
        return map_batches(forward, self._images, sizes, self._device, threads, "logits")

    def profile(self, size: int) -> dict[str, float]:
        """Milliseconds per image at batch `size`, by kind of kernel."""
        return profiler.by_kind(lambda: self._predictor.forward(self._inputs[size]), self._device, size)


class Stopwatch:
    """Seconds between entering and leaving: of the CPU's clock, or between two CUDA events."""

    seconds: float

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def __enter__(self) -> "Stopwatch":
        if self._on_gpu:
            self._start, self._stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._start.record()
        else:
            self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_gpu:
            self._stop.record()
            self._stop.synchronize()
            self.seconds = self._start.elapsed_time(self._stop) / 1000
        else:
            self.seconds = time.perf_counter() - self._began


def _out_of_memory(error: RuntimeError) -> str:
    """What to report of an error that says that the GPU's memory is used up; any other is raised again."""
    if "out of memory" not in str(error).lower():
        raise error
    return str(error).partition("\n")[0].partition(". GPU ")[0]
