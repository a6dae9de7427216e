"""Where compiled code lies: not in artifacts, since it belongs to one machine; it is made again where it is missing."""

import fcntl
import hashlib
import json
import os
import platform
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitquant import files
from vitquant.errors import UnsupportedError, VitquantError


def path(depends: Any) -> Path:
    """The place, under `$VITQUANT_CACHE/compiled` or `~/.cache/vitquant/compiled`, of what `depends` and the CPU make.

    Args:
        depends: all that the compiled code depends on, as JSON; the CPU's instruction sets are added.

    Raises:
        VitquantError: the cache cannot be made.
    """
    key = hashlib.sha256(json.dumps([depends, _processor()], sort_keys=True).encode()).hexdigest()[:32]
    return files.private_folder(files.cache_root() / "compiled") / key


def for_inductor() -> Path:
    """The folder in which Inductor works, made; from now on it and Triton keep what they write there.

    It is `inductor` beside `compiled`, unless the environment names another, or the C++ compiler could not be told
    of it: Inductor splits commands at spaces, and at quotes. Then it is Inductor's own choice, a temporary folder.

    Raises:
        UnsupportedError: that is no better.
        VitquantError: the cache cannot be made.
    """
    own = files.private_folder(files.cache_root() / "inductor")
    os.environ.setdefault("TRITON_CACHE_DIR", str(own / "triton"))
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    default = default_cache_dir()  # an import may have put it into the environment
    if survives_a_command(own) and Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", default)) == Path(default):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(own)
    try:
        folder = Path(cache_dir())
    except OSError as error:
        raise VitquantError(f"{error.filename} cannot be made ({error.strerror}): set VITQUANT_CACHE") from None
    files.private(folder.resolve())
    if not survives_a_command(folder):
        raise UnsupportedError(
            f"torch.compile cannot work in {str(folder)!r}, for its spaces, quotes or backslashes: "
            "set VITQUANT_CACHE, or TORCHINDUCTOR_CACHE_DIR, to a folder without"
        )
    return folder


def survives_a_command(folder: Path) -> bool:
    """Whether a path that stands in a command unquoted is one word of it, as it was."""
    try:
        return shlex.split(str(folder)) == [str(folder)]
    except ValueError:  # a quote is not closed
        return False


@contextmanager
def lock(place: Path) -> Iterator[None]:
    """Hold `place` of the cache alone, of all threads and processes, while it is filled.

    Raises:
        VitquantError: the cache cannot be written.
    """
    file = place.with_suffix(".lock")
    try:
        stream = os.fdopen(files.open_private(file))
    except OSError as error:
        raise VitquantError(f"{file} cannot be written ({error.strerror}): set VITQUANT_CACHE to a folder") from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # until the file is closed, or the process ends
        yield


def _processor() -> list[str]:
    """The instruction sets that the compiler may use: `-march=native` is part of every build."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return [platform.machine(), next((line for line in lines if line.startswith(("flags", "Features"))), "unknown")]
