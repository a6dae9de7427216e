"""One artifact in a process of its own: what the benchmark asks of it."""

import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant import recipes
from vitquant.artifact import open_artifact
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError
from vitquant.measure import allocator, memory, profiler
from vitquant.parallel import map_batches
from vitquant.params import Benchmark, Evaluate
from vitquant.results.benchmark import Memory

MEMORY_PASSES = 3  # at batch 1, after which memory has settled


def serve(
    connection: Connection, artifact: Path, data: Path, params: Benchmark, threads: int, device: torch.device
) -> None:
    """In the worker: load and warm up, answer with the memory it took; then answer (method, *arguments)."""
    torch.set_num_threads(threads)
    if device.type == "cpu":
        allocator.keep_freed()
    recipes.preload(open_artifact(artifact).spec.method)
    if device.type == "cpu":
        memory.map_libraries()
    session = Session(artifact, Prepared(data), device)
    if device.type != "cpu":
        for batch in params.batches:
            session.warm_up(batch.size, params.warmup)
    connection.send(session.memory())
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
        with memory.growth(device) as self._loading:
            try:
                self._predictor = recipes.load(artifact, device)
                if self._predictor.device.type != device.type:
                    raise UnsupportedError(f"its method has no kernels for {device.type}")
                for _ in range(MEMORY_PASSES):
                    self._predictor(image)
            except RuntimeError as error:
                raise UnsupportedError(_out_of_memory(error)) from None
        if device.type == "cpu":
            allocator.trim()
        self._model = memory.in_use(device) - self._loading.before

    def memory(self) -> Memory:
        """What loading and predicting took."""
        loading = self._loading
        peak = loading.peak if self._device.type == "cpu" else memory.peak(self._device) - loading.before
        return Memory(model=self._model, peak=peak)

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

    def outputs(self, params: Evaluate, threads: int) -> NDArray[np.float32]:
        """Logits and class tokens of the validation images, float32 (N, C + D), by the largest batches that run."""
        largest = max(self._inputs)

        def forward(images: Tensor) -> Tensor:  # the last batch is filled up: another size would be compiled anew
            full = torch.cat([images, images[:1].expand(largest - len(images), -1, -1, -1)])
            return self._predictor.forward(self._predictor.preprocess(full))[: len(images)]

        sizes = params.model_copy(update={"batch_size": largest, "cuda_batch_size": largest})
        return map_batches(forward, self._images, sizes, self._device, threads, "predictions")

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
