"""Writing files whole or not at all, and their digests.

Everything is written under `.<name>.partial` beside its final name and renamed when complete. A killed
process leaves only the partial one, which the next write of the same name removes.
"""

import hashlib
import json
import shutil
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
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        if partial.is_dir():
            remove(path)  # a directory cannot be renamed over a filled one
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


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given; NaN is refused with ValueError."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """The parsed content of a JSON file.

    Raises:
        VitquantError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise VitquantError(f"{path} is missing: run `dvc repro` to make it") from None
    except ValueError as error:
        raise VitquantError(f"{path} is not valid JSON ({error}): delete it and run `dvc repro`") from None
