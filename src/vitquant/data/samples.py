"""What a data source gives: its images, and the class of each."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One labelled image, not yet decoded."""

    path: Path
    """Where the image file lies."""
    label: str
    """Its class."""
