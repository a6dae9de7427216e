import os
import subprocess
import sys

import pytest

from vitquant import cpu


def test_auto_takes_every_core_that_the_process_may_use() -> None:
    assert cpu.threads("auto") == cpu.cores() == len(os.sched_getaffinity(0))
    assert cpu.threads(3) == 3


def test_cores_that_are_withheld_do_not_count() -> None:
    taskset = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    command = [sys.executable, "-c", "from vitquant.cpu import cores; print(cores())"]
    try:
        assert subprocess.run([*taskset, *command], capture_output=True, text=True, check=True).stdout == "1\n"
    except FileNotFoundError:
        pytest.skip("taskset is absent")
