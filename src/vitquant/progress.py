"""DVC as a child, and on a terminal one line: which stage runs, how long the run has taken, about how long is left.

What DVC and its stages print passes through, above that line. A stage's own progress bar, which would write over it,
becomes a part of it.
"""

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vitquant import stage_times
from vitquant.stage_times import Seconds

DVC_SAYS = re.compile(rb"(Running stage|Stage) '(.+?)'")  # Stage: … didn't change, or is cached
BAR = re.compile(rb"(\d+)%\|")  # in what tqdm prints
PIECE = re.compile(rb"[^\r\n]*[\r\n]")
NETWORK = "fetch"  # the stage whose time says nothing of the machine
PRIOR = 0.1  # of all that should be done: how much must be done before this machine's speed counts half


@dataclass
class Run:
    """What is known of a run; moments and durations in seconds."""

    expected: Seconds
    """Of each stage that may run."""
    begin: float
    taken: Seconds = field(default_factory=dict)
    """Of each stage that has run, until the next began: where two run at once, their sum is right."""
    stage: str = ""
    """That runs now."""
    since: float = 0.0
    bar: str = ""
    """What share of its work the stage says is done."""

    def __post_init__(self) -> None:
        self.to_come = set(self.expected)

    def see(self, line: bytes, now: float) -> bool:
        """Read a line that DVC or a stage printed; whether another stage begins."""
        said = DVC_SAYS.match(line)
        if not said:
            return False
        self.end(now)
        name = said[2].decode(errors="replace")
        self.to_come.discard(name)
        if said[1] == b"Running stage":
            self.stage, self.since = name, now
        return bool(self.stage)

    def end(self, now: float) -> None:
        """The stage that runs is done."""
        if self.stage:
            self.taken[self.stage] = now - self.since
        self.stage, self.bar = "", ""

    def left(self, now: float) -> float | None:
        """How long the rest will take if it differs from what is expected as what was done did; None: nobody knows."""
        total = sum(self.expected.values())
        if not total:
            return None
        told = [stage for stage in self.taken if self.expected.get(stage) and stage != NETWORK]
        usual, here = (sum(times[stage] for stage in told) for times in (self.expected, self.taken))
        speed = (PRIOR * total + here) / (PRIOR * total + usual)
        running = speed * self.expected.get(self.stage, 0.0) - (now - self.since)
        return speed * sum(self.expected[stage] for stage in self.to_come) + max(0.0, running)

    def text(self, now: float) -> str:
        """The line, most important first: a narrow terminal cuts its end."""
        left, number = self.left(now), len(self.taken) + 1
        rest = "" if left is None else f", {_about(left)} left"
        stage = f", stage {number} of {number + len(self.to_come)}: {self.stage}{self.bar}" if self.stage else ""
        return f"{tqdm.format_interval(now - self.begin)}{rest}{stage}"


def _about(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than 1 min"
    return f"about {minutes} min" if minutes < 100 else f"about {minutes / 60:.0f} h"  # noqa: PLR2004


def follow(
    command: Sequence[str], study: str, committed: Path, cwd: Path, environment: Mapping[str, str] = os.environ
) -> int:
    """Run `dvc repro`, or what is like it, as `run` does, and keep how long its stages took.

    Args:
        study: its name, by which times are recorded.
        committed: studies/times.json.
        cwd: the repository.

    Returns:
        The exit status.
    """
    expected = stage_times.expected(study, committed, cwd, environment)
    status, taken = run(command, expected, cwd, environment)
    stage_times.record(study, taken)
    return status


def run(command: Sequence[str], expected: Seconds, cwd: Path, environment: Mapping[str, str]) -> tuple[int, Seconds]:
    """Run a command that prints what `dvc repro` does, and show the line where stderr is a terminal, and not in CI.

    Elsewhere each stage gets a plain line when it begins. Ctrl-C reaches DVC, which ends as it does by itself.

    Returns:
        The exit status, as a shell gives it, and what the stages took that are done.
    """
    found = Run(expected, time.monotonic())
    with (
        subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        _left_to(process),
        tqdm(
            desc=found.text(found.begin),
            total=1, bar_format="{desc} |{bar}|", dynamic_ncols=True, leave=False, file=sys.stderr,
            disable="CI" in os.environ or None,
        ) as line,
    ):  # fmt: skip
        for stream, piece in _pieces(process):
            begins = found.see(piece, time.monotonic())
            if line.disable or piece.endswith(b"\n"):
                with tqdm.external_write_mode(file=stream):
                    stream.buffer.write(piece)
                    stream.flush()
            elif share := BAR.search(piece):
                found.bar = f" {share[1].decode()} %"
            now = time.monotonic()
            if line.disable and begins:
                print(found.text(now), file=sys.stderr, flush=True)
            elif not line.disable:
                done, left = now - found.begin, found.left(now)
                line.n = done / (done + left) if left else 0
                line.set_description_str(found.text(now))
    if process.returncode == 0:
        found.end(time.monotonic())
    return process.returncode if process.returncode >= 0 else 128 - process.returncode, found.taken


def _pieces(process: subprocess.Popen[bytes]) -> Iterator[tuple[Any, bytes]]:
    """What the child prints, up to each end of a line or return to its start, and where to; empty ones every second."""
    with selectors.DefaultSelector() as selector:
        rest: dict[int, bytes] = {}
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            assert source
            selector.register(source, selectors.EVENT_READ, target)
        while selector.get_map():
            ready = selector.select(timeout=1)
            for key, _ in ready:
                read = os.read(key.fd, 65536)
                text = rest.get(key.fd, b"") + read
                pieces = PIECE.findall(text) if read else [text]
                rest[key.fd] = text[sum(map(len, pieces)) :]
                yield from ((key.data, piece) for piece in pieces if piece)
                if not read:
                    selector.unregister(key.fileobj)
            if not ready:
                if process.poll() is not None:  # what it left behind may hold the pipes open
                    return
                yield sys.stderr, b""


@contextmanager
def _left_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave it to the child what an interrupt does: a terminal sends it one too; and hand on a request to end."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
