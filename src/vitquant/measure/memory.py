"""Memory that this process takes, in bytes.

On the CPU it is resident memory, as Linux counts it; on a GPU what PyTorch's allocator has given out.
"""

from pathlib import Path

import torch

from vitquant.artifact import CPU


def in_use(device: torch.device = CPU) -> int:
    """Memory taken now."""
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


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))
