"""Findings of the work tree and of commits, in a repository of the test's own."""

import json
import os
import subprocess
from pathlib import Path

import handmade
import pytest

from vitquant import files
from vitquant.analysis import flat, store
from vitquant.errors import VitquantError
from vitquant.results import form

AUTHOR = os.environ | {
    f"GIT_{who}_{what}": "t@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, the work directory."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    return tmp_path


def git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], env=AUTHOR, text=True).strip()


def commit() -> None:
    git("add", "-A")
    git("commit", "-q", "--allow-empty", "-m", "results")


def refusal(revision: str) -> str:
    with pytest.raises(VitquantError) as error:
        store.at(revision)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_old(repository: Path) -> None:
    """results/metrics.json of version 1: today's, without what it did not have."""
    content = flat.metrics(handmade.study())
    for recipe in content["recipes"].values():
        for key in ("class_token_mean_cosine", "class_token_p1_cosine", "class_token_least_cosine"):
            recipe.pop(key, None)
    files.write_json(repository / store.FILE_OF_VERSION_1, content)


def test_findings_of_the_work_tree(tmp_path: Path) -> None:
    form.write(tmp_path / "findings.json", handmade.findings())
    assert store.read(tmp_path / "findings.json") == handmade.findings()


def test_a_commits_findings_are_read_before_its_metrics(repository: Path) -> None:
    form.write(repository / store.FILE, handmade.findings())
    (repository / store.FILE_OF_VERSION_1).write_text("not read")
    commit()
    (repository / store.FILE).unlink()
    assert store.at("HEAD") == handmade.study()


def test_an_older_commit_has_metrics_alone(repository: Path) -> None:
    write_old(repository)
    commit()
    form.write(repository / store.FILE, handmade.findings())
    commit()
    old, new = store.at("HEAD~1"), store.at("HEAD")
    assert new == handmade.study()
    assert (old.facts.crop, new.facts.crop) == (None, 224)
    assert old.recipes["vitquant-int8"].top1_delta == new.recipes["vitquant-int8"].top1_delta
    assert old.recipes["vitquant-int8"].speedup(32) == new.recipes["vitquant-int8"].speedup(32)
    assert old.baseline.footprint == new.baseline.footprint


def test_a_commit_without_results(repository: Path) -> None:
    commit()
    assert refusal("HEAD").startswith("HEAD: that commit has neither results/findings.json nor results/metrics.json: ")


@pytest.mark.parametrize("name", [store.FILE, store.FILE_OF_VERSION_1])
def test_a_commit_with_broken_results(repository: Path, name: str) -> None:
    file = repository / name
    file.parent.mkdir()
    for content in (b"{", b"\xff\xfe", b"[" * 100_000):
        file.write_bytes(content)
        commit()
        message = refusal("HEAD")
        assert message.startswith(f"HEAD: {name} of that commit is not valid JSON (")
        assert message.endswith("): name another commit")


def test_a_commit_of_a_later_version(repository: Path) -> None:
    files.write_json(repository / store.FILE, form.dump(handmade.findings()) | {"version": 4})
    commit()
    assert refusal("HEAD") == (
        "HEAD: results/findings.json of that commit has version 4 of the format, this is vitquant with version 3: "
        "name another commit"
    )


@pytest.mark.parametrize("revision", ["nowhere", "--output=x", "--all", "HEAD --output=x", "-", ""])
def test_what_is_no_commit_is_refused_and_is_no_option(repository: Path, revision: str) -> None:
    commit()
    assert refusal(revision) == f"{revision}: git knows no such commit here: name another, such as HEAD~1"
    assert [path.name for path in repository.iterdir()] == [".git"]


@pytest.mark.parametrize("lacking", ["speeds", "footprint", "recipe"])
def test_a_study_whose_baseline_was_not_timed_is_refused(repository: Path, lacking: str) -> None:
    fp32 = handmade.study().baseline.model_copy(update={"speeds": {}} if lacking == "speeds" else {"footprint": None})
    study = handmade.with_recipe(handmade.study(), "fp32", None if lacking == "recipe" else fp32)
    form.write(repository / store.FILE, handmade.findings().model_copy(update={"study": study}))
    commit()
    assert refusal("HEAD").endswith(
        "results/findings.json of that commit: recipes.fp32 was not timed: name another commit"
    )
    with pytest.raises(VitquantError, match="recipes.fp32 was not timed: make it again with `dvc repro`"):
        store.read(repository / store.FILE)


@pytest.mark.parametrize("content", [{}, [], {"recipes": {}}, {"version": 3}])
def test_findings_of_another_form(content: object, tmp_path: Path) -> None:
    (tmp_path / "findings.json").write_text(json.dumps(content))
    with pytest.raises(VitquantError, match=r"findings\.json.*: make it again with `dvc repro`"):
        store.read(tmp_path / "findings.json")
