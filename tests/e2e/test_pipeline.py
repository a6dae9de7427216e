"""The real pipeline, `dvc repro` in a repository of its own, on a miniature study that the test makes."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import mini_study, write_images

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RECIPES = ("fp32", "dynamic-int8")
STAGES = ["machine", "fetch", "prepare", "baseline", "benchmark", "benchmark_cuda", "profile", "report"]
STAGES += [f"{stage}@{recipe}" for stage in ("quantize", "evaluate") for recipe in RECIPES]


class Study:
    """A copy of this repository's pipeline around the miniature study."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (
            "src",
            ".dvc/plots/interval.json",
            "results/cuda/README.md",
            "dvc.yaml",
            "uv.lock",
            ".dvc/config",
            ".dvcignore",
            ".gitignore",
        ):
            source, target = REPOSITORY / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
        self.params = mini_study(write_images(root.parent / f"{root.name}-images", 12))
        self.write_params()
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "the miniature study"]):
            self.git(*command)

    def git(self, *command: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *identity, *command], cwd=self.root, check=True)

    def write_params(self) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.params, sort_keys=False))

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        process = self.start(*command)
        output, _ = process.communicate()
        return process.returncode, output

    def repro(self, *targets: str) -> list[str]:
        """`dvc repro`; the stages that ran."""
        code, output = self.run("dvc", "repro", *targets)
        assert code == 0, output
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]

    def metrics(self) -> dict:
        return json.loads((self.root / "results/metrics.json").read_text())

    def accuracy(self, recipe: str) -> dict:
        return json.loads((self.root / f"results/accuracy/{recipe}.json").read_text())

    def partials(self) -> list[Path]:
        return [path for folder in ("data", "models", "results") for path in (self.root / folder).rglob(".*.partial")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study, run once."""
    study = Study(tmp_path_factory.mktemp("study") / "clone")
    assert sorted(study.repro()) == sorted(STAGES)
    return study


def test_it_measures(study: Study) -> None:
    recipes = study.metrics()["recipes"]
    assert list(recipes) == list(study.params["recipes"])
    assert recipes["fp32"]["top1_pct"] > 60  # six easy classes, chance is 17 %
    assert recipes["dynamic-int8"]["agreement_pct"] > 90
    assert recipes["dynamic-int8"]["size_mb"] < recipes["fp32"]["size_mb"] / 2
    assert recipes["dynamic-int8"]["latency_b4_ms_p50"] > 0
    assert study.partials() == []


def test_the_commands_of_dvc_work_on_it(study: Study) -> None:
    assert study.run("dvc", "status") == (0, "Data and pipelines are up to date.\n")
    code, output = study.run("dvc", "metrics", "show", "--json")
    assert code == 0
    assert json.loads(output)[""]["data"]["results/summary.json"]["data"].keys() == {"fp32", "dynamic-int8"}
    code, output = study.run("dvc", "metrics", "diff")
    assert code == 0
    assert "fp32.top1_pct" in output
    code, output = study.run("dvc", "plots", "show")
    assert code == 0
    page = (study.root / "dvc_plots/index.html").read_text()
    assert all(text in page for text in ("speed-up at the first batch size", "top-1 less fp32", "disagreement.png"))
    shutil.rmtree(study.root / "dvc_plots")
    (study.root / "README.md").write_text("<!-- result -->\n<!-- /result -->\n")
    code, output = study.run("vitquant", "summary", "--readme", "README.md")
    assert code == 0
    assert "| dynamic-int8" in (study.root / "README.md").read_text()
    (study.root / "README.md").unlink()
    assert "dynamic-int8" in output
    assert "results/report.md" in output


def test_nothing_changed_reruns_nothing(study: Study) -> None:
    assert study.repro() == []


def test_the_template_reruns_only_the_report(study: Study) -> None:
    template = study.root / "src/vitquant/report/template.md"
    template.write_text(template.read_text() + "\nOne more line.\n")
    assert study.repro() == ["report"]


def test_a_recipe_reruns_its_own_stages_and_what_joins_them(study: Study) -> None:
    study.params["recipes"]["dynamic-int8"]["per_channel"] = True
    study.write_params()
    assert study.repro() == ["quantize@dynamic-int8", "evaluate@dynamic-int8", "benchmark", "profile", "report"]


def test_a_clone_on_another_machine_measures_and_never_quotes(study: Study, tmp_path: Path) -> None:
    """Committed as if another machine had measured: in a fresh clone nothing of that may stand."""
    machine = study.root / "results/machine.json"
    machine.write_text(json.dumps(json.loads(machine.read_text()) | {"host": "elsewhere"}))
    code, output = study.run("dvc", "commit", "--force", "machine", "evaluate", "benchmark")
    assert code == 0, output
    lock = yaml.safe_load((study.root / "dvc.lock").read_text())
    lock["stages"]["machine"]["deps"][0]["md5"] = "0" * 32  # the other machine's boot
    (study.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    study.git("add", "-A")
    study.git("commit", "-qm", "measured elsewhere")
    subprocess.run(["git", "clone", "-q", study.root, tmp_path / "clone"], check=True)
    clone = copy.copy(study)
    clone.root = tmp_path / "clone"
    assert (clone.root / "results/benchmark.json").is_file()
    ran = clone.repro("evaluate@fp32", "benchmark")
    assert {"machine", "baseline", "evaluate@fp32", "benchmark"} <= set(ran)
    fresh, quoted = (json.loads((root / "results/benchmark.json").read_text()) for root in (clone.root, study.root))
    assert fresh["recipes"]["fp32"]["latency_ms"] != quoted["recipes"]["fp32"]["latency_ms"]
    assert clone.accuracy("fp32") == study.accuracy("fp32")


def test_bad_parameters_end_in_one_line(study: Study) -> None:
    good = yaml.safe_dump(study.params)
    study.params["data"]["crop"] = -1
    study.write_params()
    code, output = study.run("dvc", "repro")
    (study.root / "params.yaml").write_text(good)
    study.params = yaml.safe_load(good)
    assert code != 0
    assert "Error: params.yaml: data.crop: Input should be greater than 0, or Input should be 'auto' (got -1)" in output
    assert "Traceback" not in output


def test_another_study_runs_beside_the_committed_one(study: Study) -> None:
    """An untrained head: the experiment reports speed alone, and the workspace keeps what it had."""
    study.repro()
    study.git("add", "-A")
    study.git("commit", "-qm", "results", "--allow-empty")
    before = study.metrics()
    (study.root.parent / "speed.yaml").write_text("study: speed\nhead: none\n")
    code, output = study.run("vitquant", "experiment", "../speed.yaml", "--set", "model.seed=7")
    assert code == 0, output
    assert "experiments/speed/results/report.md" in output
    results = study.root / "experiments/speed/results"
    theirs = json.loads((results / "metrics.json").read_text())
    assert "never trained" in theirs["recipes"]["fp32"]["unavailable"]["accuracy"]
    assert theirs["recipes"]["fp32"]["latency_b1_ms_p50"] > 0
    assert (results / "figures/latency.png").is_file()
    assert study.metrics() == before
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=study.root, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""
    code, output = study.run("dvc", "exp", "show", "--csv", "--only-changed")
    assert code == 0
    assert "speed" in output
    code, output = study.run("dvc", "exp", "diff", "HEAD", "speed")
    assert code == 0
    assert "model.seed" in output


def test_killed_stages_leave_nothing_half_written_and_the_next_run_resumes(study: Study) -> None:
    study.repro("evaluate@fp32")
    expected = study.accuracy("fp32")
    for folder in (".dvc/cache", "data", "models", "results"):
        shutil.rmtree(study.root / folder)
    for output in ("data/processed", "models/baseline"):
        path = study.root / output
        kill_when_it_exists(path.with_name(f".{path.name}.partial"), study.start("dvc", "repro"))
        assert not path.exists()
    ran = study.repro("evaluate@fp32")
    assert "prepare" not in ran  # it was done when baseline was killed
    assert "baseline" in ran
    assert study.partials() == []
    assert study.accuracy("fp32") == expected


def kill_when_it_exists(partial: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not partial.exists():
        assert time.monotonic() < deadline, f"{partial} was never written"
        assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert partial.exists()
