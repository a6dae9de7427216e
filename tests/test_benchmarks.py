"""The scripts under benchmarks/, where what they measure is missing."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("script", ["runtime.py", "gpu_ratios.py"])
def test_a_missing_artifact_or_file_is_one_line(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert err.startswith(f"Error: {tmp_path / 'none'} is ")
    assert len(err.splitlines()) == 1
