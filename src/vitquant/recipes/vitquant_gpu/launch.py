"""Launching a Triton kernel, or only compiling it for a GPU that may not be there."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_compiled: ContextVar[list[Any] | None] = ContextVar("compiled", default=None)


@dataclass(frozen=True)
class Gpu:
    """What the choice of a kernel's tiles depends on."""

    capability: int
    """Compute capability, 90 for 9.0."""
    processors: int
    """Multiprocessors."""

    @property
    def tma(self) -> bool:
        """Whether it has a tensor memory accelerator, and starts a kernel before the one before has ended."""
        return self.capability >= 90  # noqa: PLR2004

    @classmethod
    def of(cls, device: torch.device) -> "Gpu":
        """That of a CUDA device."""
        properties = torch.cuda.get_device_properties(device)
        return cls(10 * properties.major + properties.minor, properties.multi_processor_count)


def matrix(values: Tensor, gpu: Gpu, *tile: int) -> Any:
    """A matrix as kernels take it: a descriptor of its tiles, or the matrix itself, which becomes a pointer."""
    return TensorDescriptor.from_tensor(values, list(tile)) if gpu.tma else values


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, early: bool, **constants: Any) -> None:
    """Run a kernel on the current stream, or compile it, inside `compiling`.

    Args:
        early: start it while the kernel before it ends, and let the next one do so (constant EARLY).
        constants: of the kernel, and Triton's options num_warps and num_stages.
    """
    if early:
        constants["launch_pdl"] = True
    compiled = _compiled.get()
    if compiled is None:
        kernel[grid](*arguments, EARLY=early, **constants)
    else:
        compiled.append(kernel.warmup(*arguments, grid=grid, EARLY=early, **constants))


@contextmanager
def compiling() -> Iterator[list[Any]]:
    """Inside, `launch` compiles and runs nothing; the list gathers the compiled kernels."""
    kernels: list[Any] = []
    token = _compiled.set(kernels)
    try:
        yield kernels
    finally:
        _compiled.reset(token)
