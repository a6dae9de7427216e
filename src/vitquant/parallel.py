"""Running a model over many images: all cores of the CPU, or the GPU."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from vitquant.errors import VitquantError
from vitquant.params import Evaluate
from vitquant.pool import one_core_each
from vitquant.predictor import CPU


class _Batches(Dataset[Tensor]):
    """Whole batches: one copy out of the mapped array, nothing collated."""

    def __init__(self, images: NDArray[np.uint8], size: int) -> None:
        self.images = images
        self.starts = range(0, len(images), size)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        start = self.starts[index]
        return torch.from_numpy(np.array(self.images[start : start + self.starts.step]))


def choose_device(wanted: str) -> torch.device:
    """The `device` parameter as a device: auto takes the GPU where there is one.

    Raises:
        VitquantError: cuda is wanted and PyTorch finds none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise VitquantError("device: cuda, but PyTorch finds no CUDA device: check `nvidia-smi`, or set device: auto")
    return torch.device("cuda") if wanted != "cpu" and torch.cuda.is_available() else CPU


def map_batches(
    function: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    params: Evaluate,
    device: torch.device,
    threads: int,
    description: str,
) -> NDArray[np.float32]:
    """Apply `function` to batches of images, uint8 (B, H, W, 3) on `device`; what it gives, (B, D), as one (N, D).

    On the CPU each of `threads` Python threads runs its own batch on one core: at small batches that is a quarter
    to a third faster than one batch on all cores. On the GPU one thread queues the work, the batches come from
    pinned memory, and a stream of their own copies the next while the last is computed. No result depends on the
    thread, worker or (but for recipes that quantize activations over the whole batch) batch count.

    What `function` gives is copied into the one array and let go at once: kept, a few KB from a thread's heap would
    hold down all that the pass has freed below it there, a megabyte an image.
    """
    on_gpu = device.type == "cuda"
    batches = _Batches(images, params.cuda_batch_size if on_gpu else params.batch_size)
    loader = DataLoader(batches, batch_size=None, num_workers=params.workers, pin_memory=on_gpu)

    copies = torch.cuda.Stream() if on_gpu else None

    def run(batch: Tensor) -> Tensor:
        if not copies:
            return function(batch)
        with torch.cuda.stream(copies):
            images = batch.to(device, non_blocking=True)
        current = torch.cuda.current_stream()
        current.wait_stream(copies)
        images.record_stream(current)  # its memory is not given out again before the pass is done
        return function(images)

    results, done = np.empty((0, 0), np.float32), 0
    with (
        one_core_each(1 if on_gpu else threads) as pool,
        tqdm(total=len(images), desc=description, unit="img", mininterval=0.5) as bar,
    ):
        for future in _submitted(pool, run, loader, ahead=2 * threads):
            batch = future.result().float().cpu().numpy()
            if not done:
                results = np.empty((len(images), *batch.shape[1:]), np.float32)
            results[done : done + len(batch)] = batch
            done += len(batch)
            bar.update(len(batch))
    return results


def _submitted(
    pool: ThreadPoolExecutor, function: Callable[[Tensor], Tensor], batches: DataLoader[Tensor], ahead: int
) -> Iterator[Future[Tensor]]:
    """The batches' futures in order, at most `ahead` of them under way, so that few batches are in memory."""
    waiting: list[Future[Tensor]] = []
    for batch in batches:
        waiting.append(pool.submit(function, batch))
        if len(waiting) >= ahead:
            yield waiting.pop(0)
    yield from waiting
