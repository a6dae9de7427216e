"""The miniature study in a repository of its own: run once, and copied for every test."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from conftest import mini_study, write_images

REPOSITORY = Path(__file__).parents[2]
PIPELINE = (
    *("src", "dependencies", "dvc.yaml", "uv.lock", ".dvc/config", ".dvc/plots/interval.json", ".dvcignore"),
    *(".gitignore", "results/cuda/README.md", "results/draws/README.md", "results/serving/README.md"),
    *("results/drift/README.md", "results/outliers/README.md", "results/studies/README.md"),
)
PER_CHANNEL = {"method": "dynamic_int8", "per_channel": True, "keep_float": ["head"], "engine": "auto"}


class Study:
    """A copy of this repository's pipeline, around the miniature study.

    Args:
        root: the repository.
        shared: a folder for what copies of it share: the images, compiled kernels, and what DVC keeps of each copy.
    """

    def __init__(self, root: Path, shared: Path) -> None:
        self.root = root
        self.shared = shared

    def make(self) -> None:
        """Make the repository, and commit it; nothing has run."""
        for name in PIPELINE:
            source, target = REPOSITORY / name, self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
        params = mini_study(write_images(self.shared / "images", 12))
        params["recipes"]["vitquant-int8"] = {"method": "vitquant_int8"}
        params["benchmark"]["batches"] = [{"size": 1, "rounds": 3}, {"size": 4, "rounds": 2}]
        self.write_params(params)
        self.git("init", "-q")
        self.commit("the miniature study")

    def copy(self, root: Path) -> "Study":
        """The same repository at another place, as `cp -a` makes it."""
        shutil.copytree(self.root, root, symlinks=True)
        return Study(root, self.shared)

    def git(self, *command: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        command = ("git", *identity, *command)
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True).stdout

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message, "--allow-empty")

    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.root / "params.yaml").read_text())

    def write_params(self, params: dict[str, Any]) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def append(self, file: str, line: str) -> None:
        with (self.root / file).open("a") as stream:
            stream.write(f"\n{line}\n")

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start the command, on the repository's own code."""
        changes = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            "VITQUANT_CACHE": str(self.shared / "cache"),
            "DVC_SITE_CACHE_DIR": str(self.shared / "dvc"),
            "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait take half of the benchmark's CPU time
        }
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=os.environ | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        """Run the command; its exit status and what it printed."""
        process = self.start(*command)
        output, _ = process.communicate()
        return process.returncode, output

    def output(self, *command: str) -> str:
        """What the command, which succeeds, prints."""
        code, output = self.run(*command)
        assert code == 0, output
        return output

    def repro(self, *targets: str) -> list[str]:
        """`dvc repro`; the stages that ran, but for `inputs`, which always does."""
        output = self.output("dvc", "repro", *targets)
        ran = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
        return [stage for stage in ran if stage != "inputs"]

    def stale(self) -> dict[str, set[str]]:
        """By `dvc status`, the stages that `dvc repro` would run, and what of each has changed.

        What they would write, and so make those that read it run too, `dvc status` cannot know.
        """
        stages = json.loads(self.output("dvc", "status", "--json"))
        assert stages.pop("inputs")[-1] == "always changed"
        return {stage: _changed(reasons) for stage, reasons in stages.items()}

    def metrics(self) -> dict[str, Any]:
        return json.loads((self.root / "results/metrics.json").read_text())

    def accuracy(self, recipe: str) -> dict[str, Any]:
        return json.loads((self.root / f"results/accuracy/{recipe}.json").read_text())

    def partials(self) -> list[Path]:
        return [path for folder in ("data", "models", "results") for path in (self.root / folder).rglob(".*.partial")]


def _changed(reasons: list[Any]) -> set[str]:
    """The paths and parameters in what `dvc status` says of a stage."""
    changed: set[str] = set()
    for reason in reasons:
        if isinstance(reason, str):
            changed.add(reason)
            continue
        for paths in reason.values():
            for path, state in paths.items():
                changed |= set(state) if isinstance(state, dict) else {path}  # a dict: keys of params.yaml
    return changed
