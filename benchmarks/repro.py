"""How long `make quick` and `make repro` take: cold, stage by stage, and with nothing changed.

Clones the committed state of this repository into an empty folder, installs it there (not timed), runs both, and writes
what their stages took into studies/times.json, by which a first run estimates how long it will take:

    python benchmarks/repro.py [FOLDER]

With a folder, the clone stays there, results and all.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vitquant import files

REPOSITORY = Path(__file__).parents[1]


def main(folder: Path) -> None:
    times, clone, quick, whole = (
        REPOSITORY / "studies" / "times.json", *(folder / name for name in ("vitquant", "quick", "whole"))
    )  # fmt: skip
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
    subprocess.run(["make", "setup"], cwd=clone, check=True, capture_output=True)
    print(timed("quick, cold", "quick", clone, quick))
    shutil.rmtree(clone / ".dvc/cache")
    print(timed("repro, cold", "repro", clone, whole))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"largest process: {peak / 1e6:.0f} MB resident", flush=True)
    taken = {study: stages for cache in (quick, whole) for study, stages in files.read_json(cache / times.name).items()}
    for study, stages in taken.items():
        print(f"{study}: {', '.join(f'{stage} {seconds:.0f} s' for stage, seconds in stages.items())}", flush=True)
    files.write_json(times, {**(files.read_json(times) if times.exists() else {}), **taken})
    timed("repro, nothing changed", "repro", clone, whole)


def timed(name: str, target: str, clone: Path, cache: Path) -> str:
    """Run a target of the Makefile; what it printed after its stages."""
    start, environment = time.perf_counter(), os.environ | {"VITQUANT_CACHE": str(cache)}
    command = ["make", "--no-print-directory", target]
    output = subprocess.run(command, cwd=clone, env=environment, check=True, text=True, capture_output=True).stdout
    stages = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    print(f"{name}: {time.perf_counter() - start:.1f} s, ran {', '.join(stages) or 'nothing'}", flush=True)
    return output[output.rfind("\nrecipe") :]


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
