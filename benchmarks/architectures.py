"""Which recipe runs which family of timm's transformers for images, or why not: docs/architectures.md.

    python benchmarks/architectures.py [FAMILY …]

A small member of each family (tests/families.py), with random weights of which every one matters, goes through every
recipe of params.yaml, as a study would make it: built with 12 calibration images, loaded again, and run on 16 others,
which the head tells apart. A cell is the least cosine of the recipe's output to FP32's (the class token, or what the
model's own pooling gives), and after it how many of the 16 images are still told apart, where that is not all.
It runs each family in a process of its own, so that an engine that crashes ends one row. With names it prints these
rows alone, and writes nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architectures.md"
sys.path.insert(0, str(ROOT / "tests"))

from families import FAMILIES, IMAGES, cosines, images, write  # noqa: E402

from vitquant import params, recipes  # noqa: E402
from vitquant.errors import VitquantError  # noqa: E402

SECONDS = 1200  # of a family
START, END = "<!-- table -->", "<!-- end of table -->"


def row(family: str) -> Iterator[tuple[str, str]]:
    """Each recipe's name, and its cell or the reason why there is none."""
    torch.set_num_threads(1)  # the products are too small to share
    wanted = params.load(ROOT / "params.yaml").recipes
    with tempfile.TemporaryDirectory() as folder:
        fp32, pixels = Path(folder) / "fp32", images(0, IMAGES)
        write(FAMILIES[family], fp32)
        expected = recipes.load(fp32).outputs(pixels)
        for name, recipe in wanted.items():
            path = Path(folder) / "recipes" / name
            path.parent.mkdir(exist_ok=True)
            try:
                recipes.build(name, recipe, fp32, path, images(IMAGES, 12))
                given = recipes.load(path).outputs(pixels)
            except VitquantError as reason:
                yield name, str(reason)
                continue
            except Exception as error:  # what an engine says, and this project does not catch, is a finding
                yield name, f"{type(error).__name__}, not caught: {' '.join(str(error).split())[:200]}"
                continue
            told = int((given[:, :IMAGES].argmax(axis=1) == np.arange(IMAGES)).sum())
            cell = f"{np.floor(1e4 * cosines(given[:, IMAGES:], expected[:, IMAGES:]).min()) / 1e4:.4f}"
            yield name, cell if told == IMAGES else f"{cell}, {told} of {IMAGES}"


def measured(family: str) -> dict[str, str]:
    """A family's row, from a process of its own."""
    command = [sys.executable, __file__, "--row", family]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        lines, end = done.stdout.splitlines(), f"the process ended with {done.returncode}"
    except subprocess.TimeoutExpired as error:
        lines, end = (error.stdout or b"").decode().splitlines(), f"not done after {SECONDS} s"
    cells = dict(json.loads(line) for line in lines if line.startswith('["'))  # engines print, too
    return {name: cells.get(name, end) for name in params.load(ROOT / "params.yaml").recipes}


def page(rows: dict[str, dict[str, str]]) -> str:
    """The table, and under it why a cell is empty."""
    names = list(next(iter(rows.values())))
    is_cell = {(family, name): cell[0].isdigit() for family, cells in rows.items() for name, cell in cells.items()}
    ran = [name for name in names if any(is_cell[family, name] for family in rows)]
    table = [
        [family, *(cells[name] if is_cell[family, name] else "–" for name in ran)] for family, cells in rows.items()
    ]
    found = tabulate(table, ["family", *ran], tablefmt="pipe", disable_numparse=True)
    reasons: dict[tuple[str, str], list[str]] = {}
    for family, cells in rows.items():
        for name, cell in cells.items():
            if not is_cell[family, name]:
                reasons.setdefault((name, cell), []).append(family)
    lines = [
        f"- `{name}`, {'all' if len(families) == len(rows) else ', '.join(families)}: {cell}"
        for (name, cell), families in reasons.items()
    ]
    return "\n".join([found, "", *lines])


def main() -> None:
    """Measure, and write or print."""
    if sys.argv[1:2] == ["--row"]:
        for cell in row(sys.argv[2]):
            print(json.dumps(cell), flush=True)
        return
    families = sys.argv[1:] or list(FAMILIES)
    rows: dict[str, dict[str, str]] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # a family takes one core
        for family, cells in zip(families, pool.map(measured, families), strict=True):
            rows[family] = cells
            print(family, cells, file=sys.stderr, flush=True)
    if sys.argv[1:]:
        print(page(rows))
        return
    text = PAGE.read_text()
    head, rest = text.split(START)
    PAGE.write_text(f"{head}{START}\n{page(rows)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
