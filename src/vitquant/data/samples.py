"""What a data source gives: its images, and the class of each."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitquant import files
from vitquant.errors import VitquantError
from vitquant.images import UndecodableError

Split = Literal["train", "val"]
LARGEST = 1_500_000_000  # bytes of an image file: more than the most pixels that are decoded have uncompressed


@dataclass(frozen=True)
class Sample:
    """One labelled image, not yet decoded."""

    name: str
    """Its path within the source, as text: bytes that are no UTF-8 are backslash escapes."""
    label: str
    """Its class."""
    read: Callable[[], bytes]
    """Reads the image file's content; may be called from any thread."""
    split: Split | None = None
    """The split it belongs to, where the source has one."""


def file_sample(path: Path, root: Path, label: str, split: Split | None = None) -> Sample:
    """A sample that lies in a file of its own."""
    name = path.relative_to(root).as_posix()
    return Sample(files.as_text(name), files.as_text(label), lambda: _read(path), split)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UndecodableError("it is no file, or a link that leads nowhere")
    if path.stat().st_size > LARGEST:
        raise UndecodableError(f"it has more than {LARGEST / 1e9:g} GB")
    return path.read_bytes()


def settle(problems: Sequence[str], total: int, on_undecodable: str, stage: str) -> None:
    """Do with images that are none what `data.on_undecodable` says: stop, or say on stderr that they are left out.

    Args:
        problems: the images, each with what is wrong with it.
        total: of how many.

    Raises:
        VitquantError: there are problems, and `on_undecodable` is stop.
    """
    if problems and on_undecodable == "stop":
        shown = "; ".join(sorted(problems)[:5]) + ("; …" if len(problems) > 5 else "")  # noqa: PLR2004
        raise VitquantError(
            f"{len(problems)} of {total} images cannot be decoded: {shown}: "
            "mend or remove them, or set data.on_undecodable: skip"
        )
    for problem in sorted(problems):
        print(f"{stage}: skipped {problem}", file=sys.stderr)
