import platform
import subprocess
from pathlib import Path

import pytest
import torch

from vitquant.measure import environment


def test_the_fingerprint_names_what_a_measurement_depends_on() -> None:
    fingerprint = environment.machine()
    assert fingerprint == environment.machine()
    assert fingerprint.host == platform.node()
    assert fingerprint.torch == torch.__version__.split("+")[0]
    assert fingerprint.cpu
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert {"avx2", "avx512f"} <= set(fingerprint.isa)


def test_the_commit_says_whether_the_code_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment.git_commit() is None
    for command in (
        ["init", "-q"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *command], check=True)
    commit = environment.git_commit()
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "results.json").touch()
    assert environment.git_commit() == commit
    (tmp_path / "params.yaml").touch()
    assert environment.git_commit() == f"{commit}+changes"
