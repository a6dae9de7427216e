"""The miniature study that has run, and a copy of it for each test.

A plugin, which the tests name in `pytest_plugins`: a conftest.py here would hide the one that all tests import from.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from miniature import Study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Study:
    """The study, run once, by the first of pytest-xdist's processes that comes here; for copying only.

    `first_run.json` beside it holds the stages that ran.
    """
    temporary = tmp_path_factory.getbasetemp()
    shared = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "study"
    study, record = Study(shared / "original", shared), shared / "first_run.json"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            shutil.rmtree(shared, ignore_errors=True)  # of a process that failed
            shared.mkdir()
            (shared / "cache").symlink_to(cache)
            study.make()
            record.write_text(json.dumps(study.repro()))
    return study


@pytest.fixture
def study(finished: Study, tmp_path: Path) -> Study:
    """A copy of the study that has run, to do with as the test likes."""
    return finished.copy(tmp_path / "study")
