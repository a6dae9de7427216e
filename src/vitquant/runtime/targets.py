"""CPUs that native code is compiled for beforehand, to run on machines without a compiler."""

import platform
from pathlib import Path

from vitquant.errors import UnsupportedError

V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
V4 = (*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
TARGETS = (  # the compiler's arguments, and the CPU's flags, as Linux names them, that this code needs; the best first
    (("-march=x86-64-v4", "-mavx512vnni"), (*V4, "avx512_vnni")),
    (("-march=x86-64-v3",), V3),
)
CPUINFO = Path("/proc/cpuinfo")


def best() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of TARGETS, the best that this CPU can run.

    Raises:
        UnsupportedError: it can run none.
    """
    flags = next((line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), "").split()
    for target, needed in TARGETS:
        if set(needed) <= set(flags):
            return target, needed
    raise UnsupportedError(
        f"what is compiled beforehand is for x86-64 CPUs with AVX2: this one, {platform.machine()}, lacks it"
    )
