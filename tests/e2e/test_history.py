"""`make docker-bench` gives the container git's history to read only, and no capability: the stages need neither."""

import subprocess
from pathlib import Path

import pytest
from miniature import Study

READ_ONLY = "mount --bind .git .git && mount -o remount,bind,ro .git"
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
NAMESPACE = ("unshare", "--mount", "--map-root-user")


def test_stages_run_without_writing_history(tmp_path: Path) -> None:
    study = Study(tmp_path / "study", tmp_path / "shared")
    study.make()
    probe = ["sh", "-c", f"{READ_ONLY} && ! touch .git/x", *POWERLESS, "true"]
    if subprocess.run([*NAMESPACE, *probe], cwd=study.root, capture_output=True, check=False).returncode:
        pytest.skip("mounts cannot be made here")
    inside = (*NAMESPACE, "sh", "-c", f'{READ_ONLY} && exec "$@"', "sh", *POWERLESS)
    output = study.output(*inside, "dvc", "repro", "machine", "prepare")
    assert "Running stage 'prepare'" in output
    assert "vitquant machine" in output
    assert (study.root / "dvc.lock").is_file()
