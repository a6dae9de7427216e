"""One artifact in a process of its own: what the benchmark asks of it."""

import math
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
from vitquant.data.samples import Split
from vitquant.errors import UnsupportedError
from vitquant.measure import allocator, memory, profiler
from vitquant.parallel import map_batches
from vitquant.params import Benchmark, Evaluate
from vitquant.predictor import Predictor
from vitquant.results.benchmark import Memory

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc")  # of a GPU, of PyTorch, and of C++
MEMORY_PASSES = 3  # at batch 1, after which memory has settled
LEAD_IN = 0.25  # of the time that a visit measures
COPIES = 5  # of a batch, that are timed


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
    session = Session(artifact, Prepared(data), device, most=max(batch.size for batch in params.batches))
    if device.type != "cpu":
        for batch in params.batches:
            session.warm_up(batch.size, params.warmup, split=False)
    connection.send(session.memory())
    while True:
        method, *arguments = connection.recv()
        connection.send(getattr(session, method)(*arguments))


class Session:
    """One loaded artifact, in its own process.

    Args:
        most: images in the largest batch.
    """

    def __init__(self, artifact: Path, prepared: Prepared, device: torch.device, most: int) -> None:
        self._artifact, self._device = artifact, device
        self._prepared, self._images, self._files = prepared, prepared.images("val"), prepared.files()
        self._first = np.array(self._images[:most])  # in memory now, and not as a batch's
        self._inputs: dict[int, Tensor] = {}
        self._split: Predictor | None = None
        self._warm: dict[tuple[int, bool], int | str] = {}
        image = self._first[:1]
        if device.type == "cuda":
            torch.cuda.init()
        with memory.growth(device) as loading:
            try:
                self._predictor = recipes.load(artifact, device)
                if self._predictor.device.type != device.type:
                    raise UnsupportedError(f"its method has no kernels for {device.type}")
                for _ in range(MEMORY_PASSES):
                    self._predictor.forward(self._predictor.preprocess(image)).cpu()
            except (RuntimeError, MemoryError) as error:
                raise UnsupportedError(_out_of_memory(error)) from None
        self._loading, self._taken = loading, {False: memory.growth_since(loading, device)}

    def allocator(self) -> str:
        """Which allocator this process has, and how it is set."""
        return allocator.keep_freed()

    def memory(self) -> Memory:
        """What loading and predicting took."""
        peaks = [peak for peak in self._warm.values() if isinstance(peak, int)]
        return Memory(model=self._taken[False], load_peak=max([self._loading.peak, *peaks]))

    def warm_up(self, size: int, passes: int, split: bool) -> int | str:
        """Run `passes` batches of `size`, unless that was done.

        Args:
            split: over the cores, a part of the batch on each; else a whole batch on all of them.

        Returns:
            The process's growth to its highest meanwhile, in bytes, from before it loaded the artifact, as if for this
            way alone, and without the batches themselves; or why such a batch cannot be run.
        """
        if (size, split) not in self._warm:
            self._warm[size, split] = self._first_passes(size, passes, split)
        return self._warm[size, split]

    def _first_passes(self, size: int, passes: int, split: bool) -> int | str:
        try:
            predictor = self._loaded(split)
            inputs = predictor.preprocess(self._first[np.arange(size) % len(self._first)])
            with memory.growth(self._device) as running:
                for _ in range(passes):
                    predictor.forward(inputs)
        except (RuntimeError, MemoryError) as error:
            return _out_of_memory(error)
        self._inputs[size] = inputs
        no_part = sum(each.nbytes for each in self._inputs.values())
        no_part += sum(taken for way, taken in self._taken.items() if way != split)
        return running.before + running.peak - self._loading.before - no_part

    def _loaded(self, split: bool) -> Predictor:
        if not split:
            return self._predictor
        if not self._split:
            with memory.growth(self._device) as loading:
                self._split = recipes.load(self._artifact, self._device, split=True)
                self._split.forward(self._split.preprocess(self._first[:1]))
            self._taken[True] = memory.growth_since(loading, self._device)
        return self._split

    def time(self, size: int, seconds: float, split: bool) -> float:
        """Seconds per batch of `size`: of one pass, or over as many as last about `seconds`.

        An untimed pass comes first, on the CPU of an image per core that works alone: since the last visit the caches,
        or the GPU, were another process's. Where more than one pass is timed, untimed ones then go on for LEAD_IN of
        that time, so that clocks and power have settled; their pace says how many will be timed.
        """
        predictor, inputs, passes = self._loaded(split), self._inputs[size], 1
        on_cpu = self._device.type == "cpu"
        predictor.forward(inputs[: torch.get_num_threads() if split else 1] if on_cpu else inputs)
        if seconds:
            untimed, taken = self.repeat(size, LEAD_IN * seconds, split)
            passes = math.ceil(seconds * untimed / taken)
        with Stopwatch(self._device) as watch:
            for _ in range(passes):
                predictor.forward(inputs)
        return watch.seconds / passes

    def time_each(self, size: int, passes: int) -> list[float]:
        """Seconds of each of `passes` whole batches of `size` in a row, after an untimed one."""
        self._predictor.forward(self._inputs[size])
        seconds = []
        for _ in range(passes):
            with Stopwatch(self._device) as watch:
                self._predictor.forward(self._inputs[size])
            seconds.append(watch.seconds)
        return seconds

    def from_file(self, number: int) -> float:
        """Seconds from the content of an image's file, one of a few, to its logits: decoded and preprocessed, too."""
        start = time.perf_counter()
        pixels = self._predictor.artifact.spec.preprocessing.pixels(self._files[number % len(self._files)])
        self._predictor.forward(self._predictor.preprocess(pixels[None])).cpu()
        return time.perf_counter() - start

    def repeat(self, size: int, seconds: float, split: bool) -> tuple[int, float]:
        """Predict whole batches of `size` for at least `seconds`: how many, and the seconds that they took.

        A GPU is waited for a few times only: its queue stays full in between.
        """
        predictor, inputs = self._loaded(split), self._inputs[size]
        passes, more, began = 0, 1, time.perf_counter()
        while True:
            for _ in range(more):
                predictor.forward(inputs)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            passes, taken = passes + more, time.perf_counter() - began
            if taken >= seconds:
                return passes, taken
            more = math.ceil((seconds - taken) * passes / taken)

    def copy(self, size: int) -> float:
        """Seconds of copying a batch of preprocessed images, float32 (N, 3, H, W), to the device; the median of a few.

        To a GPU it is copied from pinned memory.
        """
        on_device = self._inputs[size]
        images = on_device.cpu()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            images = images.pin_memory()
        times, target = [], torch.empty_like(on_device)
        for _ in range(COPIES + 1):
            with Stopwatch(self._device) as watch:
                target.copy_(images, non_blocking=True)
            times.append(watch.seconds)
        return float(np.median(times[1:]))

    def outputs(self, params: Evaluate, threads: int, split: Split) -> NDArray[np.float32]:
        """Logits and embeddings of a split's images, float32 (N, C + D), by the largest batches that run."""
        largest = max(self._inputs)

        def forward(images: Tensor) -> Tensor:  # the last batch is filled up: another size would be compiled anew
            full = torch.cat([images, images[:1].expand(largest - len(images), -1, -1, -1)])
            return self._predictor.forward(self._predictor.preprocess(full))[: len(images)]

        sizes = params.model_copy(update={"batch_size": largest, "cuda_batch_size": largest})
        return map_batches(forward, self._prepared.images(split), sizes, self._device, threads, "predictions")

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


def _out_of_memory(error: RuntimeError | MemoryError) -> str:
    """What to report of an error that says that memory is used up; any other is raised again."""
    if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
        raise error
    return str(error).partition("\n")[0].partition(". GPU ")[0] or "out of memory"
