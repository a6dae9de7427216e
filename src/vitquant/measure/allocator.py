"""The C library's allocator, set alike in every process that is measured: what is freed is kept, and used again.

By default glibc gives large blocks back to the kernel when they are freed, and the next pass has every page of them
zeroed and mapped again. How often depends on its dynamic thresholds, so on the order of all that was allocated before,
and is a property of no recipe. mallopt(3) says what the parameters are.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1  # malloc.h
NEVER = 2**31 - 1  # bytes that must be free at the heap's end before glibc gives them back


def keep_freed() -> str:
    """Keep freed memory from now on, until `trim`: one heap for all threads, nothing mapped apart from it.

    Other heaps than the first could not hold a block of more than 64 MB. Blocks that have been given out stay as they
    are: call it before anything large is allocated.

    Returns:
        What allocator and setting are in force.
    """
    libc, library = ctypes.CDLL(None), _library_of_malloc()
    if not hasattr(libc, "mallopt") or not library.startswith("libc."):
        return f"{library}, as it comes"
    settings = {ARENA_MAX: 1, MMAP_MAX: 0, TRIM_THRESHOLD: NEVER}
    if not all(libc.mallopt(name, value) for name, value in settings.items()):
        return f"{_version()}, which refused a setting"
    return f"{_version()}: one heap for all threads, freed memory is kept"


def trim() -> None:
    """Give all freed memory back to the kernel, whole pages of it, where the C library can."""
    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


def _version() -> str:
    return os.confstr("CS_GNU_LIBC_VERSION") or "glibc"


def _library_of_malloc() -> str:
    """The file name of the library that `malloc` is in: a preloaded one may have taken its place."""
    address = ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in span.split("-"))
        if start <= address < end:
            return Path(name).name
    return "an unknown allocator"
