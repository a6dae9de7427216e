"""Every committed result names a commit of this repository, so that its code can be looked up."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
FILES = ("benchmark.json", "profile.json", "accuracy/*.json", "cuda/*.json")


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def commits(content: Any) -> Iterator[str]:
    """Every value of a key `git_commit`, however deep."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if key == "git_commit":
            yield value
        elif isinstance(value, dict | list):
            yield from commits(value)


def test_the_results_commits_exist() -> None:
    shallow = git("rev-parse", "--is-shallow-repository")
    if shallow.stdout.strip() != "false":
        pytest.skip(f"no whole history here: {shallow.stderr.strip() or 'a shallow clone'}")
    named = {
        f"{path.relative_to(REPOSITORY)}: {commit}": commit
        for pattern in FILES
        for path in (REPOSITORY / "results").glob(pattern)
        for commit in commits(json.loads(path.read_text("utf-8")))
    }
    assert named
    lost = [name for name, commit in named.items() if git("cat-file", "-e", f"{commit}^{{commit}}").returncode]
    assert not lost
