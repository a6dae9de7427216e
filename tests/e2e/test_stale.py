"""What a change of the code, or of a recipe, makes stale: these stages of the study that has run, and no others."""

import json
import re

import pytest
from miniature import PER_CHANNEL, Study

pytest_plugins = ["study_fixtures"]

QUANTIZE = {"quantize@fp32", "quantize@dynamic-int8", "quantize@vitquant-int8"}
EVALUATE = {"evaluate@fp32", "evaluate@dynamic-int8", "evaluate@vitquant-int8"}


def test_a_copy_at_another_place_is_up_to_date_and_a_change_that_leaves_the_length_is_seen(study: Study) -> None:
    """DVC, which has hashed the file, hashes it again, though what it depends on is a link that did not change."""
    assert study.stale() == {}
    assert study.repro() == []
    source = study.root / "src/vitquant/analysis/statistics.py"
    source.write_text(source.read_text().swapcase())
    assert study.stale().keys() == {"tails", "report"}


@pytest.mark.parametrize(
    ("file", "line", "stages"),
    [
        pytest.param(
            "data/prepared.py",
            "# changed",
            QUANTIZE | EVALUATE | {"baseline", "benchmark", "benchmark_cuda", "profile", "tails", "report"},
            id="how calibration images are drawn",
        ),
        pytest.param(
            "measure/accuracy.py",
            "# changed",
            EVALUATE,
            id="how predictions are made",
        ),
        pytest.param(
            "images.py",
            "# changed",
            QUANTIZE
            | EVALUATE
            | {"fetch", "prepare", "baseline", "benchmark", "benchmark_cuda", "profile", "tails", "report"},
            id="how images are normalised",
        ),
        pytest.param(
            "runtime/native/linear.h",
            "// changed",
            {"quantize@vitquant-int8", "evaluate@vitquant-int8", "benchmark", "profile", "tails"},
            id="one recipe's kernels",
        ),
    ],
)
def test_changed_code_makes_stale_what_runs_it(study: Study, file: str, line: str, stages: set[str]) -> None:
    study.append(f"src/vitquant/{file}", line)
    stale = study.stale()
    assert stale.keys() == stages
    assert stale == {stage: {f"dependencies/{_folder(stage)}"} for stage in stages}


def _folder(stage: str) -> str:
    """Below dependencies/: a stage of a recipe has its method's."""
    return stage.replace("@", "/").replace("-", "_")


def test_the_template_reruns_only_the_report_and_the_run_says_so(study: Study) -> None:
    study.append("src/vitquant/report/template.md", "One more line.")
    output = study.output("vitquant", "repro")
    assert re.findall("Running stage '(.+)'", output) == ["inputs", "inputs", "report"]  # before the recipes, and after
    assert re.findall(r"^\d\d:\d\d, .*(stage . of .: .+)", output, re.M)[-1] == "stage 2 of 2: report"
    assert {"inputs", "report"} <= json.loads((study.shared / "cache/times.json").read_text())["mini"].keys()
    assert "\nOne more line.\n" in (study.root / "results/report.md").read_text()


def test_kernels_rerun_their_recipe_and_no_other(study: Study) -> None:
    """The artifact comes out as it was, and evaluate runs for the code's sake; what joins the recipes is left stale."""
    before = study.accuracy("vitquant-int8")
    study.append("src/vitquant/runtime/native/linear.h", "// changed")
    assert study.repro(*sorted(EVALUATE)) == ["quantize@vitquant-int8", "evaluate@vitquant-int8"]
    assert study.accuracy("vitquant-int8")["predicted"]["artifact_sha256"] == before["predicted"]["artifact_sha256"]
    assert study.accuracy("vitquant-int8")["predicted"]["logits_sha256"] == before["predicted"]["logits_sha256"]
    assert study.stale().keys() == {"benchmark", "profile", "tails"}


def test_a_changed_recipe_makes_stale_its_own_stages_and_what_joins_them(study: Study) -> None:
    params = study.params()
    params["recipes"]["dynamic-int8"] = PER_CHANNEL
    study.write_params(params)
    assert study.stale().keys() == {"quantize@dynamic-int8", "benchmark", "profile", "tails", "report"}
    assert study.repro("quantize@dynamic-int8") == ["quantize@dynamic-int8"]
    stale = study.stale()
    assert stale.keys() == {"evaluate@dynamic-int8", "benchmark", "profile", "tails", "report"}
    assert stale["evaluate@dynamic-int8"] == {"models/recipes/dynamic-int8"}
    assert stale["benchmark"] == {"models/recipes", "recipes"}


def test_a_new_recipe_runs_its_own_stages_and_what_joins_them(study: Study) -> None:
    params = study.params()
    params["recipes"]["per-channel"] = PER_CHANNEL
    study.write_params(params)
    joining = {"benchmark", "profile", "tails", "report"}
    assert study.stale().keys() == {"quantize@per-channel", "evaluate@per-channel"} | joining
    assert study.repro("evaluate@per-channel") == ["quantize@per-channel", "evaluate@per-channel"]
    assert study.stale() == {
        "benchmark": {"models/recipes", "recipes"},
        "profile": {"models/recipes", "recipes"},
        "tails": {"models/recipes", "results/accuracy", "results/predictions", "recipes"},
        "report": {"results/accuracy", "results/predictions", "recipes"},
    }
