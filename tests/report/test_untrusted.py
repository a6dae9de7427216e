"""Text that comes from somebody else is shown as it is and does nothing, in Markdown, on the page, in a terminal."""

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
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError, printable
from vitquant.measure import accuracy
from vitquant.params import Params
from vitquant.report import build, gpu_section, page, readme
from vitquant.report.compare import compare
from vitquant.report.metrics import Inputs
from vitquant.report.text import code, escape

IMAGE = "![x](../evil.png)"
HARMLESS = "a b"  # as long as it has a space, no name is set in code type
HOSTILE = (
    f"{IMAGE} <img src=x onerror=alert(1)> <script>alert(1)</script> [a](javascript:alert(1)) | `c` *d* __e__ ~~f~~ "
    "$g$ &lt;\n\n# h\n```\n- i\n"
)
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
    """`content` with every text in it changed, but for keys, and what says how a recipe computes."""
    if isinstance(content, dict):
        kept = ("traits", "accuracy_device")
        return {key: value if key in kept else changed(value, change) for key, value in content.items()}
    if isinstance(content, list):
        return [changed(value, change) for value in content]
    return change(content) if isinstance(content, str) else content


def renamed(recipes: dict[str, Any], name: str) -> dict[str, Any]:
    """Every recipe but the two that have a part to play is called `name`, in some way."""
    kept = ("fp32", "dynamic-int8", "vitquant-int8")
    return {key if key in kept else f"{key} {name}": recipe for key, recipe in recipes.items()}


def metrics(name: str) -> dict[str, Any]:
    """metrics.json, every text in it and most of its recipes called `name`."""
    content = changed(handmade.metrics(), lambda _: name)
    content["recipes"]["static-int8"]["unavailable"] = {name: name}
    content["recipes"] = renamed(content["recipes"], name)
    return content


def device(name: str) -> dict[str, Any]:
    """A GPU's file, likewise; what it calls the device itself is `name` too."""
    study = metrics(name)
    study["environment"] |= {"gpu": name, "driver": name, "throttling": [name, name], "power_limit_w": name}
    study |= {"date": name, "profile": {name: {name: 1.0, "rest": 2.0}}}
    study["recipes"]["vitquant-int8"] |= {"unavailable": {"accuracy": name}}
    return {"device": name, "quantize_dynamic": name, "studies": {name: study}}


def stages(prepared: Prepared, folder: Path, name: str) -> Inputs:
    """What the stages leave, with `name` for the machine, the commit, the classes, and why INT8 has no accuracy."""
    inputs = handmade.stages(prepared, folder / "stages")
    benchmark = files.read_json(inputs.benchmark)
    environment = dict.fromkeys(handmade.ENVIRONMENT, name)
    files.write_json(inputs.benchmark, benchmark | {"environment": environment})
    results = inputs.accuracy / "dynamic-int8.json", inputs.predictions / "dynamic-int8.npz"
    accuracy.write_unavailable("dynamic-int8", INT8, name, *results)
    files.write_json(inputs.cuda / "gpu.json", device(name))
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


def test_markdown_is_made_of_the_same_parts_whatever_the_texts_say(
    params: Params, prepared: Prepared, tmp_path: Path
) -> None:
    """The report, of stages with accuracy and without."""
    made = {}
    for name in (HARMLESS, HOSTILE):
        inputs = stages(prepared, tmp_path / str(len(name)), name)
        study = params.model_copy(update={"study": name})
        content = build.read(study, inputs)
        made[name] = build.markdown(study, content, [])
        assert "\nmake repro " in made[name]
        assert "git checkout unknown\nmake repro" in made[name]
    assert structure(made[HOSTILE]) == structure(made[HARMLESS])


def test_the_readme_and_the_diff_too() -> None:
    blocks = [readme.block(metrics(name), {"gpu.json": device(name)}) for name in (HARMLESS, HOSTILE)]
    assert structure(blocks[1]) == structure(blocks[0])
    diffs = []
    for name in (HARMLESS, HOSTILE):
        before, after = metrics(name), metrics(f"{name}2")
        before["study"][name] = name
        after["recipes"]["fp32"]["size_mb"] = 1.0
        diffs.append(compare(before, after, (name, name)))
    assert structure(diffs[1]) == structure(diffs[0])


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


TERMINAL = "\x1b]0;owned\x07\x1b[2J\u202e\u2066\x9b31m\u200b\nnext"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """results/metrics.json of a repository of its own, committed, with a terminal's escapes in all names."""
    content = metrics(TERMINAL)
    content["recipes"] = {
        "fp32": content["recipes"]["fp32"],
        TERMINAL: content["recipes"]["vitquant-int8"],
    }
    file = tmp_path / "results/metrics.json"
    files.write_json(file, content)
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "results")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    content["recipes"]["fp32"]["size_mb"] = 1.0
    content["recipes"][TERMINAL]["size_mb"] = 1.0
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
    content["recipes"] = {"fp32": content["recipes"]["fp32"] | {"unavailable": {"accuracy": TERMINAL}}}
    results.write_text(json.dumps(content))
    for command in (["recommend", "--max-drop", "1"], ["diff", TERMINAL], ["summary", "--metrics", TERMINAL]):
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
        (lambda content: content["study"].update(classes="<b>"), "study.classes: Input should be a valid integer"),
        (
            lambda content: content["recipes"]["fp32"].update(top1_pct="<b>"),
            "recipes.fp32.top1_pct: Input should be a valid number",
        ),
        (
            lambda content: content["recipes"]["fp32"].update(top1_ci95_pct=[1]),
            "recipes.fp32.top1_ci95_pct: ",
        ),
        (lambda content: content["recipes"].update(fp32={}), "recipes.fp32 was not timed"),
        (lambda content: content["recipes"]["dynamic-int8"].update(accuracy_device="moon"), "accuracy_device: "),
    ],
)
def test_results_of_another_kind_end_in_one_line(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    content = handmade.metrics()
    content["recipes"] = {name: content["recipes"][name] for name in ("fp32", "dynamic-int8")}
    change(content)
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(content))
    result = CliRunner().invoke(main, ["summary", "--metrics", str(file)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {file}: ")
    assert message in result.stderr
    assert result.stderr.endswith(": make it again with `dvc repro`\n")
    assert result.stderr.count("\n") == 1


def test_so_do_those_of_a_gpu(tmp_path: Path) -> None:
    content = device("a b")
    content["studies"]["a b"]["study"]["classes"] = "<img src=x onerror=alert(1)>"
    files.write_json(tmp_path / "gpu.json", content)
    with pytest.raises(VitquantError, match=r"gpu.json is not a CUDA benchmark \(study.classes: .*\): delete it"):
        gpu_section.read(tmp_path)
