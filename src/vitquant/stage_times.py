"""How long each stage of a run should take: what it took before, on this machine or on another.

`studies/times.json` is in git, and is what a first run knows: `benchmarks/repro.py` makes it. What runs on this machine
took is kept in `times.json` of the cache. Both hold seconds by stage, by study.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from vitquant import files
from vitquant.errors import VitquantError

FILE = "times.json"
DEFAULT = "sample"  # the study whose times stand in for what others have no record of
Seconds = dict[str, float]
"""By stage."""
Records = TypeAdapter(dict[str, Seconds])


def expected(study: str, committed: Path, cwd: Path, environment: Mapping[str, str]) -> Seconds:
    """The stages that `dvc repro` may run in the repository `cwd`, and what each should take; 0 where nobody knows.

    Args:
        study: its name, by which times are recorded.
        committed: studies/times.json.
    """
    before, here = _read(committed), _read_own()
    known = {**before.get(DEFAULT, {}), **before.get(study, {}), **here.get(study, {})}
    return {stage: _usual(stage, known) for stage in _stages(cwd, environment)}


def record(study: str, taken: Seconds) -> None:
    """Keep what the stages of a run took, for the next one; where that cannot be written, there is no record."""
    try:
        own = _read_own()
        own[study] = {**own.get(study, {}), **{stage: round(seconds, 1) for stage, seconds in taken.items()}}
        files.write_json(files.cache_root() / FILE, own)
    except (VitquantError, OSError):
        return


def _usual(stage: str, known: Seconds) -> float:
    """What the stage took; of a recipe that is new, the mean of the others'."""
    alike = [seconds for name, seconds in known.items() if name.partition("@")[0] == stage.partition("@")[0]]
    return known.get(stage, sum(alike) / max(1, len(alike)))


def _stages(cwd: Path, environment: Mapping[str, str]) -> list[str]:
    """The stages that are stale, and all that come after them, which DVC skips where nothing that they read changes."""
    commands = (["dvc", "status", "--json"], ["dvc", "dag", "--dot"])
    processes = [
        subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for command in commands
    ]
    status, graph = (process.communicate()[0] for process in processes)
    try:
        reasons = json.loads(status)
    except ValueError:  # DVC refuses the repository, and will say why when it runs
        return []
    changed = [stage for stage, why in reasons.items() if why != ["always changed"]]
    return [
        *reasons,
        *(stage for stage in after(changed, re.findall('"(.+)" -> "(.+)"', graph)) if stage not in reasons),
    ]


def after(stages: Iterable[str], edges: Sequence[tuple[str, str]]) -> list[str]:
    """All that reads, directly or not, what the stages write.

    Args:
        edges: a stage, and one that reads what it writes.
    """
    found, pending = [], list(stages)
    for stage in pending:  # which grows
        following = [reader for writer, reader in edges if writer == stage and reader not in found]
        found += following
        pending += following
    return found


def _read_own() -> dict[str, Seconds]:
    try:
        return _read(files.cache_root() / FILE)
    except VitquantError:
        return {}


def _read(path: Path) -> dict[str, Seconds]:
    try:
        return Records.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}
