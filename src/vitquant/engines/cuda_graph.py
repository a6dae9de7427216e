"""A classifier compiled block by block or as a whole, its pass recorded as one CUDA graph.

A ViT's blocks share their shapes, so that Inductor compiles one for all of them: a tenth of the time that the whole
model takes, with the same kernels inside. The graph then replays the pass as one launch.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitquant import cache

BATCH_SIZES = 256  # that a process may compile for; PyTorch stops with an error after 8
WARMUP = 3  # passes before a graph is recorded: compiling, autotuning, and libraries' workspaces


def compile_blocks(blocks: nn.Module | None, model: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Compile `blocks`, a part of `model`, in place; the function from images to outputs that `model` is.

    A model that has none is compiled as a whole.

    Raises:
        UnsupportedError: torch.compile cannot work where the cache is.
        VitquantError: the cache cannot be made.
    """
    if blocks is None:
        return compile_whole(model, device)
    _prepare()
    for name, block in list(blocks.named_children()):
        setattr(blocks, name, torch.compile(block, dynamic=False, fullgraph=True))
    return Graphed(model) if device.type == "cuda" else model


def compile_whole(model: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Compile `model` as one: what lies between the blocks fuses too, and compiling takes ten times as long.

    Raises:
        UnsupportedError: torch.compile cannot work where the cache is.
        VitquantError: the cache cannot be made.
    """
    _prepare()
    function: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False, fullgraph=True)
    return Graphed(function) if device.type == "cuda" else function


def _prepare() -> None:
    cache.for_inductor()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    torch._dynamo.config.recompile_limit = BATCH_SIZES


class Graphed:
    """Records `function`, images to outputs on the GPU, as one CUDA graph for each batch size it meets."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Images, float32 (N, 3, H, W), to what `function` gives, float32 (N, C + width)."""
        if images.shape not in self._graphs:
            self._graphs[images.shape] = self._record(images)
        graph, inputs, outputs = self._graphs[images.shape]
        inputs.copy_(images)
        graph.replay()
        return outputs.clone()  # the next replay overwrites them

    def _record(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        inputs = images.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                self._function(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may allocate meanwhile
            outputs = self._function(inputs)
        return graph, inputs, outputs
