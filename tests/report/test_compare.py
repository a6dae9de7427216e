"""Two commits' results, side by side, in a repository of the test's own."""

import copy
import json
import os
import subprocess
from pathlib import Path

import handmade
import pytest
from click.testing import CliRunner, Result

from vitquant import files
from vitquant.cli import main
from vitquant.report import gpu_section, readme
from vitquant.report.compare import compare

REPOSITORY = Path(__file__).parents[2]
EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's name of the empty tree
AUTHOR = os.environ | {
    f"GIT_{who}_{what}": "t@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


@pytest.fixture
def metrics() -> dict:
    return handmade.metrics()


def line(text: str, recipe: str, value: str) -> str:
    return next(row for row in text.splitlines() if row.startswith(f"| {recipe} ") and f" {value} " in row)


def test_what_exceeds_its_interval_is_said(metrics: dict) -> None:
    before, after = metrics, copy.deepcopy(metrics)
    before["recipes"]["dynamic-int8"] |= {"speedup_b1_x": 2.0, "speedup_b1_ci95_x": [1.9, 2.1]}
    after["recipes"]["dynamic-int8"] |= {"speedup_b1_x": 3.0, "speedup_b1_ci95_x": [2.9, 3.1], "size_mb": 11.0}
    before["recipes"]["vitquant-int8"] |= {"top1_delta_pp": -0.1, "top1_delta_ci95_pp": [-0.5, 0.3]}
    after["recipes"]["vitquant-int8"] |= {"top1_delta_pp": -0.4, "top1_delta_ci95_pp": [-0.8, 0.0]}
    text = compare(before, after, ("main", "work tree"))
    assert text.startswith("## main → work tree\n\n2 of ")
    assert "× 1.50 [1.41, 1.59]" in line(text, "dynamic-int8", "speed-up b1, ×")  # hypot of the logarithms
    assert line(text, "dynamic-int8", "speed-up b1, ×").rstrip(" |").endswith("yes")
    assert line(text, "dynamic-int8", "size, MB").rstrip(" |").endswith("yes: exact")
    assert "-0.30 [-0.87, +0.27]" in line(text, "vitquant-int8", "Δ top-1, pp")  # 0.4 · √2 = 0.57
    assert line(text, "vitquant-int8", "Δ top-1, pp").rstrip(" |").endswith("no")


def test_nothing_changed(metrics: dict) -> None:
    assert "No value differs." in compare(metrics, copy.deepcopy(metrics), ("a", "b"))


def test_another_machine_and_study_are_said_and_recipes_that_come_and_go(metrics: dict) -> None:
    after = copy.deepcopy(metrics)
    metrics["environment"]["cpu"], after["environment"]["cpu"] = "Beads", "Aba|cus"
    metrics["study"]["data"] = "elpv"
    after["study"]["data"] = "folder"
    after["recipes"]["new"] = after["recipes"].pop("static-int8")
    text = compare(metrics, after, ("a", "b"))
    assert "**Another machine**: cpu was Beads, is Aba\\|cus; only ratios to fp32 are comparable." in text
    assert "**Another study**: data was elpv, is folder." in text
    assert "- static-int8: only in a" in text
    assert "- new: only in b" in text


def test_the_command(metrics: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results/metrics.json"
    files.write_json(file, metrics)
    for command in (
        ("init", "-q"),
        ("add", "-A"),
        ("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "results"),
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    metrics["recipes"]["fp32"]["size_mb"] = 1.0
    file.write_text(json.dumps(metrics))
    monkeypatch.chdir(tmp_path)

    def diff(*revisions: str) -> Result:
        return CliRunner().invoke(main, ["diff", *revisions])

    result = diff("HEAD")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("## HEAD → work tree")
    assert "yes: exact" in result.stdout
    assert "No value differs." in diff("HEAD", "HEAD").stdout
    missing = diff("nowhere")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: nowhere: git knows no such commit here: name another")
    assert missing.stderr.count("\n") == 1
    for option in ("--output=x", "--all", "HEAD --output=x", "-"):
        refused = diff("--", option)
        assert refused.exit_code == 1
        assert refused.stderr == f"Error: {option}: git knows no such commit here: name another, such as HEAD~1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "results"]
    without = diff(
        subprocess.check_output(["git", "commit-tree", "-m", "no results", EMPTY], env=AUTHOR, text=True).strip()
    )
    assert "results/metrics.json cannot be read from that commit: fatal: " in without.stderr


def test_the_readme_is_in_step_with_the_results() -> None:
    """The committed ones; `make repro` ends with `vitquant summary --readme README.md`, which mends it."""
    results = REPOSITORY / "results"
    committed = files.read_json(results / "metrics.json")
    block = readme.block(committed, gpu_section.read(results / "cuda"))
    text = (REPOSITORY / "README.md").read_text()
    assert f"{readme.START}\n{block}\n{readme.END}" in text
    for figure in (line.rpartition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")):
        assert (REPOSITORY / figure).is_file()


def test_the_readme_needs_its_markers(metrics: dict, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"before\n{readme.START}\nold\n{readme.END}\nafter\n")
    readme.update(file, metrics, {})
    assert file.read_text() == f"before\n{readme.START}\n{readme.block(metrics, {})}\n{readme.END}\nafter\n"
    file.write_text("no markers\n")
    with pytest.raises(Exception, match="README.md: the result goes between one"):
        readme.update(file, metrics, {})
