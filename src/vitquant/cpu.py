"""The CPU cores that this process may use."""

import os
from typing import Literal


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


def threads(wanted: Literal["auto"] | int) -> int:
    """The `threads` parameter as a number."""
    return cores() if wanted == "auto" else wanted
