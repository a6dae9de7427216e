"""The scripts under benchmarks/, where what they measure is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("script", ["runtime.py", "gpu_ratios.py"])
def test_a_missing_artifact_or_file_is_one_line(tmp_path: Path, script: str) -> None:
    command = [sys.executable, BENCHMARKS / script, tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {tmp_path / 'none'} is ")
    assert len(done.stderr.splitlines()) == 1
