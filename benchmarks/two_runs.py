"""Whether two runs of the same artifacts agree, as `vitquant diff` says it.

Counts the speed-ups, of every recipe at every batch size, that differ between two runs by more than their interval. Of
the same artifacts on the same machine about one in twenty may. A run is a findings.json or a commit. In the root of a
repository where `make repro` has run, it may be a benchmark.json of its artifacts, too, or the benchmark runs twice
here, so many minutes from start to start:

    python benchmarks/two_runs.py before.json after.json
    python benchmarks/two_runs.py HEAD~1 HEAD
    python benchmarks/two_runs.py --measure 30
"""

import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from vitquant import files, params
from vitquant.analysis import store
from vitquant.analysis.analyse import analyse
from vitquant.analysis.compare import compare
from vitquant.analysis.findings import Study
from vitquant.analysis.load import Inputs, load
from vitquant.errors import VitquantError
from vitquant.report import comparison

DATA, RESULTS = Path("data/processed"), Path("results")


@click.command()
@click.argument("before", required=False)
@click.argument("after", required=False)
@click.option("--measure", "minutes", type=click.FloatRange(min=0), help="Run the benchmark twice, so far apart.")
def main(before: str | None, after: str | None, minutes: float | None) -> None:
    """Compare the speed-ups of BEFORE and AFTER, each a findings.json, benchmark.json or commit, or of two runs now."""
    try:
        judge(before, after, minutes)
    except VitquantError as error:
        raise click.ClickException(str(error)) from error


def judge(before: str | None, after: str | None, minutes: float | None) -> None:
    """Print the comparison, and of how many speed-ups it says that they changed."""
    if (minutes is None) != bool(before and after) or (minutes is not None and before):
        raise click.UsageError("give two runs, or --measure and how many minutes apart to make them")
    runs = measured(minutes) if minutes is not None else (read(str(before)), read(str(after)))
    found = compare(*runs)
    speedups = [change for change in found.changes if change.is_ratio]
    names = (before or "first run", after or "second run")
    print(comparison.markdown(replace(found, changes=speedups), names))
    changed = [f"{change.recipe} {change.what}" for change in speedups if change.beyond == "yes"]
    share = 100 * len(changed) / max(1, len(speedups))
    print(f"{len(changed)} of {len(speedups)} speed-ups called changed ({share:.1f} %): {'; '.join(changed) or 'none'}")


def read(name: str) -> Study:
    """The study in a findings.json, from a benchmark.json, or of a commit."""
    path = Path(name)
    if not path.is_file():
        return store.at(name)
    content = files.read_json(path)
    return study(path) if isinstance(content, dict) and "conditions" in content else store.read(path).study


def measured(minutes: float) -> tuple[Study, Study]:
    """The studies of two runs of the benchmark; their files stay where the first line printed says."""
    folder = Path(tempfile.mkdtemp())
    print(f"The two runs' samples: {folder}", flush=True)
    files = folder / "first.json", folder / "second.json"
    start = time.monotonic()
    benchmark(files[0])
    time.sleep(max(0.0, start + 60 * minutes - time.monotonic()))
    benchmark(files[1])
    return study(files[0]), study(files[1])


def benchmark(out: Path) -> None:
    """Run the benchmark of the artifacts that are there."""
    command = ["vitquant", "benchmark", "--artifacts", "models/recipes", "--data", str(DATA), "--out", str(out)]
    subprocess.run(command, check=True)


def study(samples: Path) -> Study:
    """What the report would find if these were the benchmark's samples."""
    inputs = Inputs(DATA, RESULTS / "accuracy", RESULTS / "predictions", samples)
    study_params = params.load(Path("params.yaml"))
    return analyse(load(study_params, inputs)).study


if __name__ == "__main__":
    main()
