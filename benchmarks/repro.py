"""How long `make repro` takes: cold, with nothing changed, and after a change of the report's template.

Clones the committed state of this repository into an empty folder, installs it there (not timed), and runs:

    python benchmarks/repro.py
"""

import resource
import subprocess
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "vitquant"
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
        subprocess.run(["make", "setup"], cwd=clone, check=True, capture_output=True)
        timed("cold", clone)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(f"largest process: {peak / 1e6:.0f} MB resident", flush=True)
        timed("nothing changed", clone)
        template = clone / "src/vitquant/report/template.md"
        template.write_text(template.read_text() + "\nOne more line.\n")
        timed("template changed", clone)
        print(
            subprocess.run(
                [clone / ".venv/bin/vitquant", "summary"], cwd=clone, check=True, text=True, capture_output=True
            ).stdout
        )


def timed(name: str, clone: Path) -> None:
    start = time.perf_counter()
    output = subprocess.run(["make", "repro"], cwd=clone, check=True, text=True, capture_output=True).stdout
    stages = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    print(f"{name}: {time.perf_counter() - start:.1f} s, ran {', '.join(stages) or 'nothing'}", flush=True)


if __name__ == "__main__":
    main()
