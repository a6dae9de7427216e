"""What a data source gives: its images, and the class of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Sample:
    """One labelled image, not yet decoded."""

    name: str
    """Its path within the source."""
    label: str
    """Its class."""
    read: Callable[[], bytes]
    """Reads the image file's content; may be called from any thread."""
    split: Split | None = None
    """The split it belongs to, where the source has one."""


def file_sample(path: Path, root: Path, label: str, split: Split | None = None) -> Sample:
    """A sample that lies in a file of its own."""
    return Sample(path.relative_to(root).as_posix(), label, path.read_bytes, split)
