"""Writing files whole or not at all, and their digests.

Everything is written under `.<name>.partial` beside its final name and renamed when complete. A killed
process leaves only the partial one, which the next write of the same name removes.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitquant.errors import VitquantError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the caller makes a file or a directory there.

    Left normally, the temporary takes the place of `path`; left by an exception, it is removed and
    what stood at `path` before stays as it was.

    Raises:
        VitquantError: there is something else than a file or a directory, as /dev/null, which would be replaced.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise VitquantError(f"{path} is neither a file nor a folder: name another")
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        if partial.is_dir():
            remove(path)  # a directory cannot be renamed over a filled one
        elif path.is_dir():
            raise VitquantError(f"{path} is a folder: name a file")
        partial.replace(path)
    except BaseException:
        remove(partial)
        raise


def remove(path: Path) -> None:
    """Delete a file or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cache_root() -> Path:
    """The folder that all studies of a user share: `$VITQUANT_CACHE`, or `~/.cache/vitquant`. It is made, private.

    Raises:
        VitquantError: it cannot be made, there is no home directory to make it in, or others may write to it.
    """
    named = os.environ.get("VITQUANT_CACHE")
    try:
        return private_folder(Path(named or "~/.cache/vitquant").expanduser().resolve())
    except RuntimeError as error:
        problem = (
            f"VITQUANT_CACHE={named}: {error}" if named else f"user {os.getuid()} has no home directory for the cache"
        )
        raise VitquantError(f"{problem}: set VITQUANT_CACHE to a folder") from None


def private_folder(path: Path) -> Path:
    """`path`, made if need be, and no one's but this user's: what lies there is run.

    Raises:
        VitquantError: it cannot be made, or is not private.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise VitquantError(f"{path} cannot be made ({error.strerror}): set VITQUANT_CACHE to a folder") from None
    return private(path)


def private(path: Path) -> Path:
    """`path`, a file or folder that this user owns, that no one else may write to, and that is no link.

    Raises:
        VitquantError: it is not.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        problem = "is a link"
    elif found.st_uid != os.geteuid():
        problem = f"belongs to user {found.st_uid}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = "may be written by other users"
    else:
        return path
    raise VitquantError(
        f"{path} {problem}, whose code would run as user {os.geteuid()}: delete it, or set VITQUANT_CACHE to a folder "
        "of your own"
    )


def open_private(path: Path) -> int:
    """A descriptor of a private file, made if need be, for reading and appending; a link is not followed.

    Raises:
        VitquantError: it is not private.
        OSError: it cannot be opened.
    """
    if path.is_symlink():
        private(path)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    private(path)
    return descriptor


def as_text(name: str) -> str:
    """A file's name as text that can be written anywhere: bytes that are no UTF-8 as backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given; NaN is refused with ValueError.

    What UTF-8 has no bytes for, half of a surrogate pair as in odd file names, is written as JSON's own escape.
    """
    with atomic(path) as partial:
        partial.write_text(
            json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", "utf-8", "backslashreplace"
        )


def read_json(path: Path, mend: str = "") -> Any:
    """The parsed content of a JSON file.

    Args:
        mend: what to do where it cannot be read; if not said, to run `dvc repro`.

    Raises:
        VitquantError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise VitquantError(f"{path} is missing: {mend or 'run `dvc repro` to make it'}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in thousands of brackets
        raise VitquantError(f"{path} is not valid JSON ({error}): {mend or 'delete it and run `dvc repro`'}") from None
