"""What fusion gives on a GPU and what 8 bits give: ratios between recipes of results/cuda, as Markdown.

The rival is, at each batch size, the fastest that PyTorch compiles in 16 bits, block by block or as a whole; intervals
are the report's. In a repository that has results of a GPU:

    python benchmarks/gpu_ratios.py [results/cuda/nvidia-h100-80gb-hbm3.json]
"""

from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from vitquant.analysis.statistics import paired_ratio
from vitquant.errors import VitquantError
from vitquant.results import form
from vitquant.results.gpu import Gpu

COMPILED = ("bf16-compiled", "fp16-compiled", "bf16-compiled-whole", "fp16-compiled-whole")
RECIPES = ("bf16-compiled-product", "bf16-fused", "vitquant-int8", "vitquant-int8-dynamic", "vitquant-fp8")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("results/cuda/nvidia-h100-80gb-hbm3.json"))
def main(file: Path) -> None:
    """Print the table of FILE."""
    rows = []
    try:
        studies = form.read(file, Gpu).studies
    except VitquantError as error:
        raise click.ClickException(str(error)) from None
    for name, study in studies.items():
        measured = {recipe: found.measured for recipe, found in study.recipes.items() if found.measured}
        times = {recipe: own.latency_ms for recipe, own in measured.items()}
        for size in times["fp32"]:
            at = {recipe: [np.array(launch) for launch in own[size]] for recipe, own in times.items() if size in own}
            if lacking := sorted({*COMPILED, *RECIPES} - at.keys()):
                print(f"{name} b{size} is left out: {', '.join(lacking)} could not be measured")
                continue
            median = {recipe: float(np.median(np.concatenate(own))) for recipe, own in at.items()}
            rival = min(COMPILED, key=lambda recipe: median[recipe])

            def ratio(faster: str, slower: str) -> str:
                found = paired_ratio(at[slower], at[faster])  # noqa: B023
                return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"

            told = [f"{median[recipe]:.3f} ms: {ratio(recipe, rival)}" for recipe in RECIPES]
            rows.append(
                [f"{name} b{size}", f"{median[rival]:.3f} ms, `{rival}`", *told, ratio("vitquant-int8", "bf16-fused")]
            )
    headers = ["", "16 bits, compiled", *(f"`{recipe}`" for recipe in RECIPES), "8 bits on top of fusion"]
    print(tabulate(rows, headers, tablefmt="pipe"))


if __name__ == "__main__":
    main()
