"""Two runs' findings, side by side; of two commits in a repository of the test's own."""

import os
import subprocess
from pathlib import Path

import handmade
import pytest
from click.testing import CliRunner, Result
from handmade import ENVIRONMENT

from vitquant.analysis import store
from vitquant.analysis.compare import Change, compare
from vitquant.analysis.findings import Study
from vitquant.cli import main
from vitquant.errors import VitquantError
from vitquant.report import comparison, readme
from vitquant.results import form

REPOSITORY = Path(__file__).parents[2]
EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's name of the empty tree
AUTHOR = os.environ | {
    f"GIT_{who}_{what}": "t@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


@pytest.fixture
def study() -> Study:
    return handmade.study()


def text(before: Study, after: Study, names: tuple[str, str] = ("a", "b")) -> str:
    return comparison.markdown(compare(before, after), names)


def line(text: str, recipe: str, value: str) -> str:
    return next(row for row in text.splitlines() if row.startswith(f"| {recipe} ") and f" {value} " in row)


def change(before: Study, after: Study, recipe: str, what: str) -> Change:
    return next(each for each in compare(before, after).changes if (each.recipe, each.what) == (recipe, what))


def with_size(study: Study, name: str, size_mb: float) -> Study:
    own = study.recipes[name]
    assert own.footprint
    footprint = own.footprint.model_copy(update={"size_mb": size_mb})
    return handmade.with_recipe(study, name, own.model_copy(update={"footprint": footprint}))


def test_what_exceeds_its_interval_is_said(study: Study) -> None:
    before = handmade.with_speedup(study, "dynamic-int8", 2.0, 1.9, 2.1)
    before = handmade.with_delta(before, "vitquant-int8", -0.1, -0.5, 0.3)
    after = with_size(handmade.with_speedup(study, "dynamic-int8", 3.0, 2.9, 3.1), "dynamic-int8", 11.0)
    after = handmade.with_delta(after, "vitquant-int8", -0.4, -0.8, 0.0)
    shown = text(before, after, ("main", "work tree"))
    assert shown.startswith("## main → work tree\n\n4 of ")
    assert "× 1.50 [1.41, 1.59]" in line(shown, "dynamic-int8", "speed-up b1, ×")  # hypot of the logarithms
    for size in (1, 8, 32):
        assert line(shown, "dynamic-int8", f"speed-up b{size}, ×").rstrip(" |").endswith("yes")
    assert line(shown, "dynamic-int8", "size, MB").rstrip(" |").endswith("yes: exact")
    assert "-0.30 [-0.87, +0.27]" in line(shown, "vitquant-int8", "Δ top-1, pp")  # 0.4 · √2 = 0.57
    assert line(shown, "vitquant-int8", "Δ top-1, pp").rstrip(" |").endswith("no")


def test_an_interval_that_is_not_even_is_kept_so(study: Study) -> None:
    """Zou & Donner: below from the lower end of after and the upper of before, above from the others."""
    before = handmade.with_delta(study, "static-int8", 0.0, -4.0, 1.0)
    after = handmade.with_delta(study, "static-int8", 2.0, 0.5, 5.0)
    found = change(before, after, "static-int8", "Δ top-1, pp")
    assert found.change == 2.0
    assert found.interval == pytest.approx((2 - (1.5**2 + 1) ** 0.5, 2 + (3**2 + 4**2) ** 0.5))
    assert found.beyond == "yes"
    assert change(after, before, "static-int8", "Δ top-1, pp").interval == pytest.approx((-7.0, -2 + 3.25**0.5))


def test_nothing_changed(study: Study) -> None:
    assert "No value differs." in text(study, study)
    assert {each.beyond for each in compare(study, study).changes} == {"no"}


def test_memory_has_no_interval_and_top1_is_compared_of_fp32_alone(study: Study) -> None:
    fp32 = study.baseline
    assert fp32.footprint
    footprint = fp32.footprint.model_copy(update={"memory_peak_mb": 100.0})
    after = handmade.with_recipe(study, "fp32", fp32.model_copy(update={"footprint": footprint}))
    found = change(study, after, "fp32", "peak memory, MB")
    assert (found.change, found.interval, found.beyond) == (-23.0, None, "no interval")
    assert line(text(study, after), "fp32", "peak memory, MB").split("|")[5].strip() == "-23"
    assert [each.recipe for each in compare(study, study).changes if each.what == "top-1, %"] == ["fp32"]


@pytest.mark.parametrize(
    ("ranges", "beyond"), [(((95, 105), (106, 110)), "yes: ranges apart"), (((95, 107), (106, 110)), "no")]
)
def test_memory_of_several_launches_differs_where_the_ranges_lie_apart(
    study: Study, ranges: tuple[tuple[float, float], ...], beyond: str
) -> None:
    fp32, studies = study.baseline, []
    assert fp32.footprint
    for low, high in ranges:
        update = {"memory_peak_range_mb": (low, high), "memory_peak_mb": (low + high) / 2}
        footprint = fp32.footprint.model_copy(update=update)
        studies.append(handmade.with_recipe(study, "fp32", fp32.model_copy(update={"footprint": footprint})))
    assert change(studies[0], studies[1], "fp32", "peak memory, MB").beyond == beyond
    assert change(studies[1], studies[0], "fp32", "peak memory, MB").beyond == beyond


def test_what_one_of_the_two_has_not_is_not_compared(study: Study) -> None:
    own = study.recipes["static-int8"]
    after = handmade.with_recipe(study, "static-int8", own.model_copy(update={"accuracy": None, "footprint": None}))
    of_it = [each.what for each in compare(study, after).changes if each.recipe == "static-int8"]
    assert of_it == ["speed-up b1, ×", "speed-up b8, ×", "speed-up b32, ×"]
    speeds = {size: speed for size, speed in own.speeds.items() if size != 8}
    after = handmade.with_recipe(study, "static-int8", own.model_copy(update={"speeds": speeds}))
    ratios = [each.what for each in compare(after, study).changes if each.recipe == "static-int8" and each.is_ratio]
    assert ratios == ["speed-up b1, ×", "speed-up b32, ×"]


def test_another_machine_and_study_are_said_and_recipes_that_come_and_go(study: Study) -> None:
    before = study.model_copy(update={"environment": ENVIRONMENT.model_copy(update={"cpu": "Beads"})})
    after = study.model_copy(
        update={
            "environment": ENVIRONMENT.model_copy(update={"cpu": "Aba|cus"}),
            "facts": study.facts.model_copy(update={"data": "folder"}),
        }
    )
    after = handmade.with_recipe(after, "new", after.recipes["static-int8"])
    shown = text(before, handmade.with_recipe(after, "static-int8", None))
    assert "**Another machine**: cpu was Beads, is Aba\\|cus; only ratios to fp32 are comparable." in shown
    assert "**Another study**: data was elpv, is folder." in shown
    assert "- static-int8: only in a" in shown
    assert "- new: only in b" in shown


def test_the_command(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = handmade.findings()
    form.write(tmp_path / store.FILE, findings)
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "results")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, env=AUTHOR)
    form.write(tmp_path / store.FILE, findings.model_copy(update={"study": with_size(study, "fp32", 1.0)}))
    monkeypatch.chdir(tmp_path)

    def diff(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["diff", *arguments])

    result = diff("HEAD")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("## HEAD → work tree")
    assert "yes: exact" in result.stdout
    assert diff().stdout == result.stdout
    assert "No value differs." in diff("HEAD", "HEAD").stdout
    form.write(tmp_path / "elsewhere.json", findings)
    assert "No value differs." in diff("HEAD", "--findings", "elsewhere.json").stdout
    (tmp_path / "elsewhere.json").unlink()
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
    assert "that commit has neither results/findings.json nor results/metrics.json" in without.stderr


def test_the_readme_is_in_step_with_the_results() -> None:
    """The committed ones; `make repro` ends with `vitquant summary --readme README.md`, which mends it."""
    block = readme.block(store.read(REPOSITORY / store.FILE))
    text = (REPOSITORY / "README.md").read_text()
    assert f"{readme.START}\n{block}\n{readme.END}" in text
    for figure in (line.rpartition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")):
        assert (REPOSITORY / figure).is_file()


def test_the_readme_needs_its_markers(tmp_path: Path) -> None:
    findings = handmade.findings()
    file = tmp_path / "README.md"
    file.write_text(f"before\n{readme.START}\nold\n{readme.END}\nafter\n")
    readme.update(file, findings)
    assert file.read_text() == f"before\n{readme.START}\n{readme.block(findings)}\n{readme.END}\nafter\n"
    file.write_text("no markers\n")
    with pytest.raises(VitquantError, match="README.md: the result goes between one"):
        readme.update(file, findings)
