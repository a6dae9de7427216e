"""Where compiled code lies: not in artifacts, since it belongs to one machine; it is made again where it is missing."""

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitquant.errors import VitquantError


def path(depends: Any) -> Path:
    """The place, under `$VITQUANT_CACHE/compiled` or `~/.cache/vitquant/compiled`, of what `depends` and the CPU make.

    Args:
        depends: all that the compiled code depends on, as JSON; the CPU's instruction sets are added.

    Raises:
        VitquantError: the cache cannot be made.
    """
    key = hashlib.sha256(json.dumps([depends, _processor()], sort_keys=True).encode()).hexdigest()[:32]
    root = Path(os.environ.get("VITQUANT_CACHE") or "~/.cache/vitquant").expanduser() / "compiled"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitquantError(f"{root} cannot be made ({error.strerror}): set VITQUANT_CACHE to a folder") from None
    return root / key


@contextmanager
def lock(place: Path) -> Iterator[None]:
    """Hold `place` of the cache alone, of all threads and processes, while it is filled.

    Raises:
        VitquantError: the cache cannot be written.
    """
    file = place.with_suffix(".lock")
    try:
        stream = file.open("w")
    except OSError as error:
        raise VitquantError(f"{file} cannot be written ({error.strerror}): set VITQUANT_CACHE to a folder") from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # until the file is closed, or the process ends
        yield


def _processor() -> list[str]:
    """The instruction sets that the compiler may use: `-march=native` is part of every build."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return [platform.machine(), next((line for line in lines if line.startswith(("flags", "Features"))), "unknown")]
