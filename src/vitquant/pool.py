"""Threads of one core each, and a batch split over them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import torch
from torch import Tensor

_pool = local()  # what a thread of `one_core_each` knows of its pool


def one_core_each(threads: int) -> ThreadPoolExecutor:
    """A pool of threads, each of which runs what it is given on one core; other threads keep what they had.

    A thread's first parallel call sets it to the number that any thread asked for last. So each of the pool's makes one
    while that number is 1, and then the calling thread asks for its own again.
    """
    cores, started = torch.get_num_threads(), Barrier(threads)

    def start(_: int) -> None:
        _pool.threads = threads
        torch.set_num_threads(1)
        torch.get_num_threads()  # a parallel call to PyTorch
        started.wait()

    pool = ThreadPoolExecutor(threads)
    list(pool.map(start, range(threads)))
    torch.set_num_threads(cores)
    return pool


def calls_at_once() -> int:
    """From how many threads a function that is loaded in this one may expect calls at once.

    Engines that give each call a stream of its own need to know: in a pool of `one_core_each`, as many as that has.
    """
    return getattr(_pool, "threads", 1)


def split(load: Callable[[], Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """What `load` gives, each core with its own images of a batch: cores that work on one image wait for each other.

    A batch, (N, …), is cut into as many parts as PyTorch has threads now, or into N where that is fewer; the results,
    (N, D), are put together in order. An error in a part comes out as it is.

    Args:
        load: gives a function that may be called from several threads at once. It is called in a thread of the pool,
            with one core, as is what it gives.
    """
    threads = torch.get_num_threads()
    pool = one_core_each(threads)
    function = pool.submit(load).result()

    def run(part: Tensor) -> Tensor:
        with torch.inference_mode():  # of this thread
            return function(part)

    def forward(images: Tensor) -> Tensor:
        return torch.cat(list(pool.map(run, images.tensor_split(min(threads, len(images))))))

    return forward
