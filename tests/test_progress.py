"""The line of a run, around shell commands that print what DVC prints."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from vitquant import progress
from vitquant.progress import Run

USUAL = {"a": 600.0, "b": 1200.0}
PROGRAM = f"""
import os, sys
from pathlib import Path
from vitquant import progress
status, taken = progress.run(["sh", "-c", sys.argv[1]], {USUAL}, Path(), os.environ)
print(sorted(taken))
sys.exit(status)
"""
A, B = "echo \"Running stage 'a':\"", "echo \"Running stage 'b':\""
COLUMNS = 44


def on_terminal(script: str, until: str | None = None) -> tuple[int, str]:
    """Run the script on a narrow terminal; the exit status, and all that was written there.

    Args:
        until: once this was written, Ctrl-C is pressed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, script],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            written += os.read(ours, 4096)
        except OSError:  # so a terminal ends
            break
        if until and until.encode() in written:
            os.killpg(process.pid, signal.SIGINT)
            until = None
    os.close(ours)
    return process.wait(), written.decode()


def test_what_is_left_is_scaled_by_what_was_done() -> None:
    run = Run({"fetch": 10, "baseline": 60, "evaluate@a": 20, "evaluate@b": 10}, begin=0)
    assert run.left(0) == 100
    run.see(b"Running stage 'fetch':\n", 0)
    assert run.left(4) == pytest.approx(96)
    run.see(b"Running stage 'baseline':\n", 500)
    assert run.left(500) == pytest.approx(90)  # a slow network is no slow machine
    run.see(b"Running stage 'evaluate@a':\n", 620)  # twice as slow
    assert 45 < (run.left(620) or 0) < 60
    run.see(b"Stage 'evaluate@b' didn't change, skipping\n", 680)  # evaluate@a took longer still
    assert run.left(680) == 0
    assert run.taken == {"fetch": 500, "baseline": 120, "evaluate@a": 60}


def test_of_stages_that_nobody_knows_no_time_is_said() -> None:
    run = Run({"a": 0.0, "b": 0.0}, begin=0)
    run.see(b"Running stage 'a':\n", 1)
    assert run.text(61) == "01:01, stage 1 of 2: a"


def test_without_a_terminal_a_stage_has_one_plain_line(capfd: pytest.CaptureFixture[str]) -> None:
    script = f"{A}; printf '\\r 5%%|' >&2; printf 'ü\\n' >&2; {B}; printf half; exit 7"
    status, taken = progress.run(["sh", "-c", script], USUAL, Path(), os.environ)
    written = capfd.readouterr()
    assert status == 7
    assert taken.keys() == {"a"}  # b failed
    assert written.out == "Running stage 'a':\nRunning stage 'b':\nhalf"
    assert "\r 5%|ü\n" in written.err
    lines = re.findall(r"^\d\d:\d\d, about \d+ min left, stage . of 2: .$", written.err, re.M)
    assert [line[-11:] for line in lines] == ["e 1 of 2: a", "e 2 of 2: b"]


def test_a_narrow_terminal_has_one_line_that_a_bar_is_part_of() -> None:
    bar = "printf '\\rfetch:  42%%|####      | 42/100' >&2; sleep 0.2; printf '\\r' >&2; sleep 0.2"
    status, written = on_terminal(f"echo before; {A}; {bar}; {B}; echo 'a warning' >&2; sleep 0.2")
    assert status == 0
    assert "42/100" not in written
    painted = written.replace("\n", "\r").split("\r")
    assert all(len(line) <= COLUMNS for line in painted)
    assert [line.rstrip() for line in painted if line.strip() and not line.startswith("00:0")] == [
        "before", "Running stage 'a':", "Running stage 'b':", "a warning", "['a', 'b']",
    ]  # fmt: skip
    assert any(line.startswith("00:00, about 30 min left, stage 1 of 2: a") for line in painted)


def test_an_interrupt_is_left_to_the_child() -> None:
    status, written = on_terminal(f"trap 'echo tidied; exit 252' INT; {A}; sleep 60", until="stage 1")
    assert status == 252
    assert "tidied" in written
    assert "Traceback" not in written
