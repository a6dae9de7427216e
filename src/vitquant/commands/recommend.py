"""`vitquant recommend`: the best recipe for an accuracy budget."""

from pathlib import Path
from typing import Any

import click

from vitquant.commands.common import findings_option


@click.command("recommend")
@click.option("--max-drop", type=float, help="Top-1 that may be lost, percentage points.")
@click.option("--min-cosine", type=float, help="That 99 of 100 images' embeddings must have to FP32's.")
@click.option("--batch", type=int, default=1, show_default=True, help="The batch size of the latency.")
@click.option(
    "--objective",
    type=click.Choice(["latency", "memory", "size"]),
    default="latency",
    show_default=True,
    help="What is to be best.",
)
@findings_option
def command(max_drop: float | None, min_cosine: float | None, batch: int, objective: Any, findings: Path) -> None:
    """Print the best recipe, by the last run, within MAX_DROP, MIN_COSINE or both; exit code 1 where there is none."""
    from vitquant.analysis import store
    from vitquant.analysis.recommend import recommend
    from vitquant.report import recommendation

    study = store.read(findings).study
    click.echo(recommendation.text(recommend(study, max_drop, batch, objective, min_cosine), study))
