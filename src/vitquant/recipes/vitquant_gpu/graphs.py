"""A network called with batches of any size: a CUDA graph where the size is common, else kernel by kernel."""

import threading

import torch
from torch import Tensor

from vitquant.recipes.vitquant_gpu.network import Buffers, Network

COMMON = tuple(2**power for power in range(9))
"""Batch sizes that get a graph when they first come, 1 … 256."""


class Graphs:
    """A network for several threads and streams at once.

    A graph begins after the patches are copied and ends before the head, both of which are launched by themselves: the
    images need not be copied to where the graph expects them, nor the outputs from where it leaves them.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Buffers]] = {}
        self._lock = threading.Lock()
        self._compiled: set[int] = set()
        with torch.cuda.device(network.device):
            self._done = torch.cuda.Event()

    def __call__(self, images: Tensor) -> Tensor:
        """Images, float32 (N, 3, H, H) on the GPU, to logits and class token, float32 (N, classes + width)."""
        network, images, count = self._network, images.contiguous(), len(images)
        with torch.inference_mode(), torch.cuda.device(network.device):
            with self._lock:
                if count not in self._compiled:
                    network.compile(count)
                    self._compiled.add(count)
                if count in COMMON:
                    return self._replayed(images)
            return network(images)

    def _replayed(self, images: Tensor) -> Tensor:
        """The buffers are shared by all callers: each waits until the one before has read the last of them."""
        stream = torch.cuda.current_stream()
        stream.wait_event(self._done)
        if len(images) not in self._graphs:
            self._graphs[len(images)] = self._record(images)
        graph, buffers = self._graphs[len(images)]
        self._network.begin(images, buffers)
        graph.replay()
        outputs = self._network.end(buffers)
        self._done.record(stream)
        return outputs

    def _record(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Buffers]:
        network, buffers = self._network, self._network.buffers(len(images))
        network.begin(images, buffers)
        network.run_blocks(buffers)  # once as it is: it loads the kernels
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may allocate meanwhile
            network.run_blocks(buffers)
        return graph, buffers
