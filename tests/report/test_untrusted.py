"""Text that comes from somebody else is shown as it is and does nothing, in Markdown, on the page, in a terminal."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade
import pytest
from click.testing import CliRunner
from handmade import INT8
from markdown_it import MarkdownIt
from markdown_it.token import Token

from vitquant import files
from vitquant.analysis import claims, flat, load
from vitquant.analysis.analyse import analyse
from vitquant.analysis.compare import compare
from vitquant.analysis.findings import Findings
from vitquant.analysis.load import Inputs
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError, printable
from vitquant.measure import accuracy
from vitquant.params import Params
from vitquant.report import build, comparison, page, readme, tables
from vitquant.report.text import code, escape, inline
from vitquant.results import form
from vitquant.results.benchmark import Benchmark
from vitquant.results.gpu import GpuStudy
from vitquant.results.tails import Tails

IMAGE = "![x](../evil.png)"
HARMLESS = "a b"  # as long as it has a space, no name is set in code type
HOSTILE = (
    f"{IMAGE} <img src=x onerror=alert(1)> <script>alert(1)</script> [a](javascript:alert(1)) | `c` *d* __e__ ~~f~~ "
    "$g$ &lt;\n\n# h\n```\n- i\n"
)
TERMINAL = "\x1b]0;owned\x07\x1b[2J\u202e\u2066\x9b31m\u200b\nnext"
TEXTS = [
    HOSTILE,
    "<svg onload=alert(1)>",
    "[x](javascript:alert(1))",
    "<javascript:alert(1)>",
    "a|b",
    "`a``",
    "a\\",
    "\\[x](y)",
    "a\n\n<b>",
    "a\r| b |\n|---|",
    "- a",
    "+ a",
    "1. a",
    "1) a",
    "-",
    "---",
    "- - -",
    "===",
    "> a",
    "# a",
    "a #",
    "~~~",
    "[x]: /y",
    "&#96;",
    "\x1b[31mred",
    "a\u202eb",
    "a\x00b",
]


def tokens(markdown: str) -> list[Token]:
    """As a code host reads it, raw HTML and all."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)


def structure(markdown: str) -> list[Any]:
    """What the Markdown is made of, without its text."""
    return [
        [token.type, [child.type for child in token.children or [] if child.type not in ("text", "text_special")]]
        for token in tokens(markdown)
    ]


def shown(markdown: str) -> list[str]:
    """The text of each paragraph, heading and cell."""
    return ["".join(c.content for c in token.children or []) for token in tokens(markdown) if token.type == "inline"]


def visible(text: str) -> str:
    return " ".join(printable(text).split())


def changed(content: Any, change: Callable[[str], str]) -> Any:
    """`content` with every text in it changed, but for keys, and what can only be one of a few words."""
    if isinstance(content, dict):
        kept = ("traits", "unit", "logits_sha256", "artifact_sha256")
        return {key: value if key in kept else changed(value, change) for key, value in content.items()}
    if isinstance(content, list):
        return [changed(value, change) for value in content]
    return change(content) if isinstance(content, str) and content not in ("cpu", "cuda") else content


def renamed(recipes: dict[str, Any], name: str) -> dict[str, Any]:
    """Every recipe but those that have a part to play is called `name`, in some way."""
    kept = ("fp32", "dynamic-int8", "vitquant-int8")
    return {key if key in kept else f"{key} {name}": recipe for key, recipe in recipes.items()}


def findings(name: str, gpus: bool = True) -> Findings:
    """Findings, every text in them and most of their recipes called `name`."""
    content = changed(form.dump(handmade.findings()), lambda _: name)
    study = content["study"]
    study["recipes"]["static-int8"]["unavailable"] = {name: name}
    study["recipes"] = renamed(study["recipes"], name)
    study["environment"] |= {"driver": name, "throttling": [name, name]}
    study |= {"date": name, "profile": {name: {name: 1.0, "rest": 2.0}}}
    if gpus:
        content["gpus"] = [{"device": name, "quantize_dynamic": name, "studies": {name: study}}]
    return form.parse(content, Findings, "findings")


def gpu(name: str) -> GpuStudy:
    """Raw results of a GPU, likewise, of the study `name`; what it calls the device itself is `name` too."""
    content = changed(handmade.gpu_study().model_dump(mode="json"), lambda _: name)
    content["environment"] |= {"driver": name, "cuda": name, "throttling": [name, name]}
    content |= {"recipes": renamed(content["recipes"], name), "profile": {name: {name: 1.0, "rest": 2.0}}}
    content["recipes"][f"int8-compiled {name}"]["measured"] |= {
        "unavailable_accuracy": name,
        "unavailable_batches": {"7": name},
    }
    return GpuStudy.model_validate_json(json.dumps(content))


def seeds(name: str) -> GpuStudy:
    """Of the seed report's own study, which the audit goes by, on the device `name`."""
    study = handmade.gpu_study(name)
    study.recipes = renamed(study.recipes, name)
    return study


def stages(prepared: Prepared, folder: Path, name: str, evaluated: bool = False) -> Inputs:
    """What the stages leave, with `name` for the machine, the commit, the classes, a GPU and its studies, and why
    INT8 has no accuracy, unless it was evaluated.
    """
    inputs = handmade.stages(prepared, folder / "stages")
    texts = changed(handmade.MACHINE.model_dump(mode="json"), lambda _: name)
    handmade.move(inputs, **texts)
    benchmark = form.read(inputs.benchmark, Benchmark)
    benchmark.environment.git_commit, benchmark.unavailable_register_rate = name, name
    benchmark.register_products_per_s = {}
    form.write(inputs.benchmark, benchmark)
    results = inputs.accuracy / "dynamic-int8.json", inputs.predictions / "dynamic-int8.npz"
    if not evaluated:
        accuracy.write_unavailable("dynamic-int8", INT8, name, *results)
    for study in (gpu(name), seeds(name)):
        handmade.write_gpu(inputs.cuda, study, name)
    form.write(inputs.tails, Tails(unavailable=name))
    return dataclasses.replace(inputs, data=with_classes(prepared, folder / "data", name))


def with_classes(prepared: Prepared, folder: Path, name: str) -> Path:
    shutil.copytree(prepared.path, folder)
    files.write_json(folder / "classes.json", [f"{name}{index}" for index in range(6)])
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_shown_as_it_is_wherever_it_stands(text: str) -> None:
    for place in ("{}", "# {}", "a\n\n{}\n\nb", "- {}", "a {}, b", "| a | b |\n|---|---|\n| {} | c |"):
        markdown, harmless = place.format(escape(text)), place.format(HARMLESS)
        assert structure(markdown) == structure(harmless)
        assert shown(markdown) == [part.replace(HARMLESS, visible(text)) for part in shown(harmless)]
    if code(text) != escape(text):
        assert re.fullmatch("`[-=]+`", code(text))


@pytest.mark.parametrize("evaluated", [True, False])
def test_markdown_is_made_of_the_same_parts_whatever_the_texts_say(
    params: Params, prepared: Prepared, tmp_path: Path, evaluated: bool
) -> None:
    """The report, of stages with accuracy, which names classes, and without, which says why."""
    made = {}
    for name in (HARMLESS, HOSTILE):
        inputs = stages(prepared, tmp_path / str(len(name)), name, evaluated)
        study = params.model_copy(update={"study": name})
        content = build.read(study, inputs)
        made[name] = build.markdown(study, content, [])
        assert "\nmake repro " in made[name]
        assert "git checkout unknown\nmake repro" in made[name]
        assert (escape(f"{name}3") in made[name]) == evaluated
    assert structure(made[HOSTILE]) == structure(made[HARMLESS])


def test_the_readme_and_the_diff_too() -> None:
    blocks = [readme.block(findings(name)) for name in (HARMLESS, HOSTILE)]
    assert structure(blocks[1]) == structure(blocks[0])
    diffs = []
    for name in (HARMLESS, HOSTILE):
        before, after = findings(name).study, findings(f"{name}2").study
        fp32 = after.baseline
        assert fp32.footprint
        smaller = fp32.model_copy(update={"footprint": fp32.footprint.model_copy(update={"size_mb": 1.0})})
        after = handmade.with_recipe(after, "fp32", smaller)
        diffs.append(comparison.markdown(compare(before, after), (name, name)))
        assert "**Another study**" in diffs[-1]
        assert "**Another machine**" in diffs[-1]
    assert structure(diffs[1]) == structure(diffs[0])


def test_each_table_of_a_study_by_itself() -> None:
    """Recipes' names too, which params.yaml restricts and findings do not."""
    for one in (tables.summary, tables.accuracy, tables.latency, tables.memory, tables.environment, tables.unavailable):
        harmless, hostile = (one(findings(name).study) for name in (HARMLESS, HOSTILE))
        assert structure(hostile) == structure(harmless), one


def test_the_table_of_all_results_has_its_rows_and_columns() -> None:
    """A carriage return ends a row for many readers, where the writer of Python before 3.13 sets no quotes for it."""
    for name in (HOSTILE, TERMINAL, "a\rb", 'a",b'):
        text = flat.table(findings(name))
        rows = list(csv.reader(text.splitlines()))
        assert {len(row) for row in rows} == {len(rows[0])}
        assert len(rows) == 1 + 2 * len(handmade.study().recipes) * len(handmade.SIZES)
        assert {row[0] for row in rows[1:]} == {"cpu", printable(name)}
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_in_the_audit_is_shown_as_it_is_but_for_its_backticks(
    params: Params, prepared: Prepared, tmp_path: Path, text: str
) -> None:
    """There backticks set off code: one of somebody else's becomes a letter that looks like it."""
    inputs = handmade.stages(prepared, tmp_path)
    handmade.write_gpu(inputs.cuda, handmade.gpu_study("NVIDIA T4"), text)
    audit = tables.claims(claims.audit(analyse(load.load(params, inputs))))
    row = next(line for line in audit.splitlines() if line.startswith("| where it ran"))
    header = "| a | b | c | d | e |\n|---|---|---|---|---|\n"
    harmless = "| a | `b` | c | **d** | e |"
    assert structure(f"{header}{row}") == structure(f"{header}{harmless}")
    why = visible(f"on NVIDIA T4 PyTorch says: {text}").replace("`", "\N{MODIFIER LETTER GRAVE ACCENT}")
    assert shown(f"{header}{row}")[-1] == why


def test_what_is_in_backticks_is_code_only_where_code_can_show_it() -> None:
    for ours in ("`a` b", "a `b c`", "`a` and `b`"):
        assert inline(ours) == ours
    for theirs in ("`a|b`", "`<b>`", "`a\\`", "a ` b", "`a` ` b", "`a\x1b`"):
        assert structure(inline(theirs)) == structure(HARMLESS), theirs


def test_why_there_is_no_accuracy_stands_in_the_answer_as_text(
    params: Params, prepared: Prepared, tmp_path: Path
) -> None:
    inputs = stages(prepared, tmp_path, "no <b>VNNI</b>")
    assert "not measured, no \\<b\\>VNNI\\</b\\>." in build.markdown(params, build.read(params, inputs), [])


def test_only_figures_of_this_run_come_into_the_page(params: Params, prepared: Prepared, tmp_path: Path) -> None:
    """Not what a name shows as an image, were it not escaped."""
    evil = tmp_path / "evil.svg"
    evil.write_text('<svg width="1" height="1" viewBox="0 0 1 1"><script>alert(1)</script></svg>')
    out = tmp_path / "out"
    build.report(params, handmade.stages(prepared, tmp_path / "stages"), out)
    markdown = (out / "report.md").read_text() + "\n![two words](../evil.png) ![](figures/../../evil.png)\n"
    shutil.copy(evil, out / "figures/evil.svg")
    made = page.page(f"{markdown}![](figures/evil.png)\n", out, ["latency"])
    assert "<script" not in made
    assert "two words" in made
    assert made.count("<svg ") == 1


def test_a_description_is_no_pattern(params: Params, prepared: Prepared, tmp_path: Path) -> None:
    build.report(params, handmade.stages(prepared, tmp_path / "stages"), tmp_path)
    made = page.page('# a\n\n![\\\\g<1> "b" \\\\1](figures/latency.png)\n', tmp_path, ["latency"])
    assert 'aria-label="\\g&lt;1&gt; &quot;b&quot; \\1"' in made


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """results/findings.json of a repository of its own, committed, with a terminal's escapes in all names."""
    content = form.dump(findings(TERMINAL))
    recipes = content["study"]["recipes"]
    content["study"] |= {"recipes": {"fp32": recipes["fp32"], TERMINAL: recipes["vitquant-int8"]}}
    file = tmp_path / "results/findings.json"
    files.write_json(file, content)
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "results")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    for name in ("fp32", TERMINAL):
        content["study"]["recipes"][name]["footprint"]["size_mb"] = 1.0
    file.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return file


@pytest.mark.parametrize("command", [["summary"], ["recommend", "--max-drop", "1"], ["diff", "HEAD"]])
def test_a_terminal_is_told_nothing(results: Path, command: list[str]) -> None:
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"\\x1b\]0;owned\\x07", result.stdout.replace("\\\\", "\\").replace("\\]", "]"))
    assert [part for part in result.stdout.replace("\n", "") if not part.isprintable()] == []
    assert not any(line.startswith("next") for line in result.stdout.splitlines())


def test_nor_by_an_error(results: Path) -> None:
    content = json.loads(results.read_text())
    fp32 = content["study"]["recipes"]["fp32"]
    content["study"]["recipes"] = {"fp32": fp32 | {"unavailable": {"accuracy": TERMINAL}}}
    results.write_text(json.dumps(content))
    for command in (["recommend", "--max-drop", "1"], ["diff", TERMINAL], ["summary", "--findings", TERMINAL]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert "\\x1b]0;owned\\x07" in result.stderr
        assert result.stderr.rstrip("\n").isprintable()


def test_text_that_people_write_stays_as_it_is() -> None:
    for text in ("Käse – 東京 🙂", "می\u200cخواهم", "👩\u200d🔬", "a  b"):
        assert printable(text) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda study: study["facts"].update(classes="<b>"), "study.facts.classes: Input should be a valid integer"),
        (
            lambda study: study["recipes"]["fp32"]["accuracy"]["top1"].update(value="<b>"),
            "study.recipes.fp32.accuracy.top1.value: Input should be a valid number",
        ),
        (
            lambda study: study["recipes"]["fp32"]["accuracy"]["top1"].update(low=99.0),
            "study.recipes.fp32.accuracy.top1: 76 [99, 78.5] is no ",
        ),
        (
            lambda study: study["recipes"]["dynamic-int8"]["speeds"]["1"]["speedup"].update(low=0.0),
            "speeds.1.speedup: 2.4 [0, 2.448] is no ",
        ),
        (lambda study: study["recipes"].update(fp32={"traits": study["recipes"]["fp32"]["traits"]}), "was not timed"),
        (lambda study: study["recipes"]["dynamic-int8"]["accuracy"].update(device="moon"), "accuracy.device: "),
    ],
)
def test_results_of_another_kind_end_in_one_line(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    content = form.dump(handmade.findings())
    change(content["study"])
    file = tmp_path / "findings.json"
    file.write_text(json.dumps(content))
    result = CliRunner().invoke(main, ["summary", "--findings", str(file)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {file}: ")
    assert message in result.stderr
    assert result.stderr.endswith(": make it again with `dvc repro`\n")
    assert result.stderr.count("\n") == 1


def test_so_do_those_of_a_gpu(tmp_path: Path) -> None:
    file = handmade.write_gpu(tmp_path, gpu(HARMLESS))
    content = files.read_json(file)
    content["studies"][HARMLESS]["study"]["classes"] = "<img src=x onerror=alert(1)>"
    files.write_json(file, content)
    with pytest.raises(VitquantError, match=r"classes: .*: delete it and measure again$") as error:
        load.load_gpus(tmp_path)
    assert str(error.value).count("\n") == 0
