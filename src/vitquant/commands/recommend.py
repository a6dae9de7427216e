"""`vitquant recommend`: the best recipe for an accuracy budget."""

from pathlib import Path
from typing import Any

import click


@click.command("recommend")
@click.option("--max-drop", type=float, required=True, help="Top-1 that may be lost, percentage points.")
@click.option("--batch", type=int, default=1, show_default=True, help="The batch size of the latency.")
@click.option(
    "--objective",
    type=click.Choice(["latency", "memory", "size"]),
    default="latency",
    show_default=True,
    help="What is to be best.",
)
@click.option("--metrics", type=click.Path(path_type=Path), default=Path("results/metrics.json"), show_default=True)
def command(max_drop: float, batch: int, objective: Any, metrics: Path) -> None:
    """Print the best recipe, by the last run, that loses at most MAX_DROP; exit code 1 where there is none."""
    from vitquant.report.metrics import damage, read
    from vitquant.report.recommend import recommend

    with damage(str(metrics)):
        click.echo(recommend(read(metrics), max_drop, batch, objective))
