"""Resident memory of this process, in bytes, as Linux counts it."""

from pathlib import Path


def resident() -> int:
    """Resident memory now."""
    return _status("VmRSS")


def peak() -> int:
    """The most there has been since `reset_peak`, or since the process began."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Start the high-water mark afresh: proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))
