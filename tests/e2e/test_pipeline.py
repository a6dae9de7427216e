"""The real pipeline, `dvc repro` in a repository of its own, on a miniature study that the test makes."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import yaml
from click.testing import CliRunner
from miniature import Study
from safetensors.numpy import load_file

from vitquant.cli import main

pytest_plugins = ["study_fixtures"]


def test_every_stage_runs_and_it_measures(finished: Study) -> None:
    first_run = json.loads((finished.shared / "first_run.json").read_text())
    assert sorted(first_run) == [
        *("baseline", "benchmark", "benchmark_cuda", "evaluate@dynamic-int8", "evaluate@fp32"),
        *("evaluate@vitquant-int8", "fetch", "machine", "prepare", "profile", "quantize@dynamic-int8"),
        *("quantize@fp32", "quantize@vitquant-int8", "report", "tails"),
    ]
    recipes = finished.metrics()["recipes"]
    assert list(recipes) == ["fp32", "dynamic-int8", "vitquant-int8"]
    assert recipes["fp32"]["top1_pct"] > 60  # six easy classes, chance is 17 %
    for name in ("dynamic-int8", "vitquant-int8"):
        assert recipes[name]["agreement_pct"] > 90
        assert recipes[name]["size_mb"] < recipes["fp32"]["size_mb"] / 2
        assert recipes[name]["latency_b4_ms_p50"] > 0
    assert finished.partials() == []
    tails, timed = (json.loads((finished.root / f"results/{name}.json").read_text()) for name in ("tails", "benchmark"))
    assert len(tails["timed"]["latency_ms"]) == 100
    measured = timed["recipes"][tails["timed"]["recipe"]]["measured"]
    assert tails["timed"]["artifact_sha256"] == measured["artifact_sha256"]
    shown = (finished.root / "results/report.md").read_text()
    assert f"Tails of `{tails['timed']['recipe']}` over 100 passes in a row" in shown


def test_the_commands_of_dvc_work_on_it(study: Study) -> None:
    summary = json.loads(study.output("dvc", "metrics", "show", "--json"))[""]["data"]["results/summary.json"]["data"]
    assert summary.keys() == {"fp32", "dynamic-int8", "vitquant-int8"}
    assert "fp32.top1_pct" in study.output("dvc", "metrics", "diff")
    study.output("dvc", "plots", "show")
    page = (study.root / "dvc_plots/index.html").read_text()
    assert all(text in page for text in ("speed-up at the first batch size", "top-1 less fp32", "disagreement.png"))
    (study.root / "README.md").write_text("<!-- result -->\n<!-- /result -->\n")
    output = study.output("vitquant", "summary", "--readme", "README.md")
    assert "dynamic-int8" in output
    assert "results/report.md" in output
    rows = [line for line in (study.root / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip(" *") for row in rows] == ["recipe", "fp32", "dynamic-int8", "vitquant-int8"]


def test_a_clone_on_another_machine_measures_and_never_quotes(study: Study, tmp_path: Path) -> None:
    """Committed as if another machine had measured: in a clone, with all of its data and models, nothing may stand."""
    params = study.params()
    params["recipes"] = {"fp32": {"method": "fp32"}}
    params["benchmark"]["launches"] = 1
    study.write_params(params)
    machine = study.root / "results/machine.json"
    machine.write_text(json.dumps(json.loads(machine.read_text()) | {"host": "elsewhere"}))
    study.output("dvc", "commit", "--force", "machine", "quantize@fp32", "evaluate@fp32", "benchmark")
    shutil.rmtree(study.root / ".dvc/cache/runs")  # by which DVC knows what ran on this machine
    lock = yaml.safe_load((study.root / "dvc.lock").read_text())
    lock["stages"]["machine"]["deps"][0]["md5"] = "0" * 32  # the other machine's boot
    (study.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    study.commit("measured elsewhere")
    subprocess.run(["git", "clone", "-q", study.root, tmp_path / "clone"], check=True)
    clone = Study(tmp_path / "clone", study.shared)
    clone.output("dvc", "cache", "dir", "--local", str(study.root / ".dvc/cache"))
    clone.output("dvc", "checkout")
    quoted, quoted_accuracy = _measured(clone)
    assert clone.repro("evaluate@fp32", "benchmark") == ["machine", "quantize@fp32", "evaluate@fp32", "benchmark"]
    fresh, fresh_accuracy = _measured(clone)
    assert _latency(fresh) != _latency(quoted)
    assert fresh_accuracy == quoted_accuracy


def _measured(study: Study) -> list[dict]:
    files = ("results/benchmark.json", "results/accuracy/fp32.json")
    return [json.loads((study.root / file).read_text()) for file in files]


def _latency(benchmark: dict) -> dict:
    return benchmark["recipes"]["fp32"]["measured"]["latency_ms"]


def test_bad_parameters_end_in_one_line(study: Study) -> None:
    params = study.params()
    params["data"]["crop"] = -1
    study.write_params(params)
    code, output = study.run("dvc", "repro")
    assert code != 0
    assert "Error: params.yaml: data.crop: Input should be greater than 0, or Input should be 'auto' (got -1)" in output
    assert "Traceback" not in output


def test_another_study_runs_beside_the_committed_one(study: Study) -> None:
    """An untrained head: the experiment reports speed alone, and the workspace keeps what it had.

    It may replace any section, and what is not committed belongs to it; what a failed one finished is not done again.
    """
    study.commit("results")
    before = study.metrics()
    content = {"study": "speed: ü 🙂\t\\", "head": "none", "recipes": {"fp32": {"method": "fp32"}}}
    content["benchmark"] = study.params()["benchmark"] | {"launches": 1, "batches": [{"size": 1, "rounds": 2}]}
    content["data"] = study.params()["data"] | {"path": os.path.relpath(study.params()["data"]["path"], study.root)}
    (study.root.parent / "speed.yaml").write_text(yaml.safe_dump(content))
    command = ("vitquant", "experiment", "../speed.yaml", "--set", "model.seed=7", "--set")
    code, output = study.run(*command, "calibration.images=1000000")
    assert code == 1, output
    assert "the study speed did not finish" in output
    output = study.output(*command, "calibration.images=4")
    assert "Running stage 'quantize@fp32'" in output
    assert "Running stage 'baseline'" not in output
    assert "experiments/speed/results/report.md" in output
    results = study.root / "experiments/speed/results"
    theirs = json.loads((results / "metrics.json").read_text())["recipes"]
    assert list(theirs) == ["fp32"]
    assert json.loads((results / "metrics.json").read_text())["study"]["name"] == content["study"]
    assert "never trained" in theirs["fp32"]["unavailable"]["accuracy"]
    assert theirs["fp32"]["latency_b1_ms_p50"] > 0
    assert "Tails were not measured: no recipe is recommended" in (results / "report.md").read_text()
    assert (results / "figures/latency.png").is_file()
    assert study.metrics() == before
    assert study.git("status", "--porcelain") == ""
    assert "speed" in study.output("dvc", "exp", "show", "--csv", "--only-changed")
    assert "model.seed" in study.output("dvc", "exp", "diff", "HEAD", "speed")


SLOW = """
import time
from vitquant.recipes import fp32
from vitquant.recipes.fp32 import Options, build, traits

def load(artifact, device):
    forward = fp32.load(artifact, device)
    def slow(inputs):
        time.sleep(0.5)
        return forward(inputs)
    return slow
"""


def test_a_recipe_that_is_far_too_slow_has_a_row_and_a_reason(study: Study) -> None:
    """One that sleeps in every pass, and FP32, which is faster than that on any machine."""
    (study.root / "src/vitquant/recipes/slow.py").write_text(SLOW)
    params = study.params()
    params["recipes"] = {"fp32": {"method": "fp32"}, "slow": {"method": "slow"}}
    params["max_slowdown"] = 3
    params["benchmark"] |= {"launches": 1, "batches": [{"size": 1, "rounds": 3}, {"size": 4, "rounds": 2}]}
    study.write_params(params)
    study.output("python", "dependencies/update.py")
    assert {"benchmark", "profile", "tails", "report"} <= set(study.repro())
    slow, baseline = (study.metrics()["recipes"][name] for name in ("slow", "fp32"))
    assert slow["latency_b1_ms_p50"] >= 500
    assert slow["speedup_b1_x"] < 1 / 3
    assert "top1_pct" not in slow
    assert "latency_b4_ms_p50" not in slow
    assert slow["unavailable"].keys() == {"accuracy", "all but the first batches"}
    assert all("set max_slowdown, now 3, higher" in reason for reason in slow["unavailable"].values())
    assert baseline["top1_pct"] > 60
    assert baseline["latency_b4_ms_p50"] > 0
    assert "too slow here" in (study.root / "results/report.md").read_text()


def test_images_where_dvc_deletes_are_refused_and_stay(study: Study) -> None:
    """However a run is started; a link does not hide where they lie."""
    mine = study.root / "data/raw/mine"
    shutil.copytree(study.params()["data"]["path"], mine)
    (study.root / "link").symlink_to(mine)
    (study.root.parent / "study.yaml").write_text("study: mine\n")
    for path in ("data/raw/mine", "data", "link"):
        params = study.params()
        params["data"]["path"] = path
        study.write_params(params)
        with contextlib.chdir(study.root):
            checked = CliRunner().invoke(main, ["check"])
        outputs = [(checked.exit_code, checked.output)]
        if path == "link":
            outputs += [study.run("vitquant", "experiment", "../study.yaml"), study.run("dvc", "repro")]
        for code, output in outputs:
            assert code != 0
            assert re.search(rf"Error: data.path: .*{path} (lies in|holds) data/raw, which DVC deletes", output), output
            assert "Traceback" not in output
    assert len(list(mine.rglob("*.png"))) == len(list((study.shared / "images").rglob("*.png"))) > 0


def test_changed_images_are_fetched_again(study: Study) -> None:
    images = study.root.parent / "images"
    shutil.copytree(study.params()["data"]["path"], images)
    params = study.params()
    params["data"]["path"] = str(images)
    study.write_params(params)
    assert study.repro("fetch") == ["fetch"]
    assert study.repro("fetch") == []
    next(images.rglob("*.png")).unlink()
    assert study.repro("fetch") == ["fetch"]


def test_killed_stages_leave_nothing_half_written_and_the_next_run_resumes(study: Study) -> None:
    model = study.root / "models/baseline/model.safetensors"
    expected = load_file(model)
    for folder in (".dvc/cache", "data", "models", "results"):
        shutil.rmtree(study.root / folder)
    for output in ("data/processed", "models/baseline"):
        path = study.root / output
        kill_when_it_exists(path.with_name(f".{path.name}.partial"), study.start("dvc", "repro", "baseline"))
        assert not path.exists()
    assert study.repro("baseline") == ["baseline"]  # prepare was done when baseline was killed
    assert study.partials() == []
    resumed = load_file(model)
    assert resumed.keys() == expected.keys()
    assert all(np.allclose(resumed[name], expected[name], rtol=1e-4, atol=1e-6) for name in expected)


def kill_when_it_exists(partial: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not partial.exists():
        assert time.monotonic() < deadline, f"{partial} was never written"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert partial.exists()
