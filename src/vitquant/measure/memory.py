"""Memory that this process takes, in bytes.

On the CPU it is resident memory, as Linux counts it; on a GPU what PyTorch's allocator has given out.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from vitquant.measure import allocator
from vitquant.predictor import CPU

POPULATE_READ = 22  # MADV_POPULATE_READ of madvise(2), since Linux 5.14
FOR_GPUS = ("/nvidia/", "cuda", "nccl", "triton")  # in the paths of libraries, gigabytes, that no CPU recipe runs


@dataclass
class Growth:
    """What `growth` has found: memory `before`, and how far the `peak` was above it, known at the end."""

    before: int
    peak: int = 0


@contextmanager
def growth(device: torch.device = CPU) -> Iterator[Growth]:
    """Watch how much more memory than now what is inside takes at most.

    On the CPU all that the allocator has kept is given back before, so that its use counts. What it keeps inside counts
    once it has been used.
    """
    if device.type == "cpu":
        allocator.trim()
    reset_peak(device)
    grown = Growth(in_use(device))
    yield grown
    grown.peak = peak(device) - grown.before


def growth_since(grown: Growth, device: torch.device = CPU) -> int:
    """How much more memory is taken now than before, without what the allocator keeps."""
    if device.type == "cpu":
        allocator.trim()
    return in_use(device) - grown.before


def in_use(device: torch.device = CPU) -> int:
    """Memory taken now, what the allocator keeps with it."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def peak(device: torch.device = CPU) -> int:
    """The most there has been since `reset_peak`, or since the process began."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def reset_peak(device: torch.device = CPU) -> None:
    """Start the high-water mark afresh; on the CPU: proc(5), clear_refs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def map_libraries() -> bool:
    """Make the shared libraries that are loaded resident, whole, but for those of GPUs.

    Otherwise each page counts when it is first touched: PyTorch's 17 MB of kernels as the memory of the model that runs
    them first. All come from the page cache, which processes share.

    Returns:
        Whether the kernel can; Linux before 5.14 cannot.
    """
    libc, done = ctypes.CDLL(None), True
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, *_, name = line.split(maxsplit=5)
        if ".so" in Path(name).suffixes and permissions[0] == "r" and not any(part in name for part in FOR_GPUS):
            start, end = (int(address, 16) for address in span.split("-"))
            done &= not libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), POPULATE_READ)
    return done


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))
