"""The CPU cores that this process may use."""

import math
import os
from pathlib import Path
from typing import Literal


def cores() -> int:
    """CPU cores this process may use: those it may run on, or fewer where its control group has less CPU time."""
    own, limit = len(os.sched_getaffinity(0)), quota()
    return min(own, math.ceil(limit)) if limit else own


def threads(wanted: Literal["auto"] | int) -> int:
    """The `threads` parameter as a number."""
    return cores() if wanted == "auto" else wanted


def quota(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPU time that the process may use per time that passes, by its control groups, or None for any.

    Args:
        groups: the kernel's list of the process's groups, of version 1 or 2.
        mount: where their files lie. A container sees its own group there, whatever path the list has.
    """
    limits = []
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            group = Path(path.lstrip("/"))
            limits += [_limit(mount / controllers / each) for each in (group, *group.parents)]
    return min((limit for limit in limits if limit), default=None)


def _limit(group: Path) -> float | None:
    """Of one control group: CPU time per time, None where it has no limit or is not there."""
    try:
        if (group / "cpu.max").exists():  # version 2
            time, period = (group / "cpu.max").read_text().split()
        else:
            time, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return None
    return None if time in ("max", "-1") else int(time) / int(period)
