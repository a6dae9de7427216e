"""How long `make quick` and `make repro` take: cold, stage by stage, with nothing changed, and after a change of the
report's template.

Clones the committed state of this repository into an empty folder, installs it there (not timed), runs both, and writes
what their stages took into studies/times.json, by which a first run estimates how long it will take:

    python benchmarks/repro.py
"""

import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from vitquant import files

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    times = REPOSITORY / "studies" / "times.json"
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "vitquant"
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
        subprocess.run(["make", "setup"], cwd=clone, check=True, capture_output=True)
        quick, whole = Path(folder) / "quick", Path(folder) / "whole"
        print(timed("quick, cold", "quick", clone, quick))
        shutil.rmtree(clone / ".dvc/cache")
        timed("repro, cold", "repro", clone, whole)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(f"largest process: {peak / 1e6:.0f} MB resident", flush=True)
        taken = {
            study: stages for cache in (quick, whole) for study, stages in files.read_json(cache / times.name).items()
        }
        for study, stages in taken.items():
            print(f"{study}: {', '.join(f'{stage} {seconds:.0f} s' for stage, seconds in stages.items())}", flush=True)
        files.write_json(times, {**(files.read_json(times) if times.exists() else {}), **taken})
        timed("repro, nothing changed", "repro", clone, whole)
        template = clone / "src/vitquant/report/template.md"
        template.write_text(template.read_text() + "\nOne more line.\n")
        print(timed("repro, template changed", "repro", clone, whole))


def timed(name: str, target: str, clone: Path, cache: Path) -> str:
    """Run a target of the Makefile; what it printed after its stages."""
    start, environment = time.perf_counter(), os.environ | {"VITQUANT_CACHE": str(cache)}
    command = ["make", "--no-print-directory", target]
    output = subprocess.run(command, cwd=clone, env=environment, check=True, text=True, capture_output=True).stdout
    stages = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    print(f"{name}: {time.perf_counter() - start:.1f} s, ran {', '.join(stages) or 'nothing'}", flush=True)
    return output[output.rfind("\nrecipe") :]


if __name__ == "__main__":
    main()
