"""What it takes to be ready: `vitquant.runtime` beside the recipe in PyTorch, and a bundle, each in fresh processes.

Milliseconds from the interpreter's first line until an artifact of vitquant-int8 is loaded and has predicted one image,
and the whole process's resident memory then, and at its highest. In turn, so often; medians and ranges. Of an artifact,
by default the study's, in the root of a repository where `make repro` has run:

    python benchmarks/runtime.py [ARTIFACT] [--rounds 10]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import click
from tabulate import tabulate

from vitquant.artifact import open_artifact
from vitquant.errors import VitquantError
from vitquant.runtime import bundle

MEASURE = """
import time
began = time.perf_counter()
import json, sys
{load}
import numpy as np
predict(np.zeros((1, side, side, 3), np.uint8))
seconds = time.perf_counter() - began
lines = open("/proc/self/status").read().splitlines()
found = {{line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Vm") and "kB" in line}}
print(json.dumps([1000 * seconds, found["VmRSS"] / 1e6, found["VmHWM"] / 1e6]))
"""
WAYS = {
    "vitquant.runtime": "from vitquant import runtime; predict = runtime.load(sys.argv[1])",
    "the recipe, in PyTorch": "from vitquant import recipes; predict = recipes.load(sys.argv[1])",
    "a bundle": "sys.path.insert(0, sys.argv[2]); import run; predict = run.load()",
}
SHAPE = "\nside = run.read_facts()['side'] if 'run' in sys.modules else predict.artifact.spec.preprocessing.crop"


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), default=Path("models/recipes/vitquant-int8"))
@click.option("--rounds", type=click.IntRange(min=2), default=10, show_default=True)
def main(artifact: Path, rounds: int) -> None:
    """Measure ARTIFACT."""
    with tempfile.TemporaryDirectory() as folder:
        bundled = Path(folder) / "bundle"
        try:
            bundle.write(open_artifact(artifact), bundled)
        except VitquantError as error:
            raise click.ClickException(str(error)) from None
        found: dict[str, list[list[float]]] = {name: [] for name in WAYS}
        for number in range(rounds + 1):
            for name, load in WAYS.items():
                program = MEASURE.format(load=load + SHAPE)
                command = [sys.executable, "-c", program, str(artifact), str(bundled)]
                values = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                if number:  # the first fills the page cache
                    found[name].append(values)
    rows = [[name, *(span([each[index] for each in values]) for index in range(3))] for name, values in found.items()]
    print(tabulate(rows, ["", "ready after, ms", "resident, MB", "at its highest, MB"], tablefmt="pipe"))


def span(values: list[float]) -> str:
    """The median, and the range."""
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
