"""`vitquant summary`: the result in a terminal."""

from pathlib import Path

import click


@click.command("summary")
@click.option("--metrics", type=click.Path(path_type=Path), default=Path("results/metrics.json"), show_default=True)
@click.option("--report", type=click.Path(path_type=Path), default=Path("results/report.md"), show_default=True)
def command(metrics: Path, report: Path) -> None:
    """Print the summary table of the last run, and where the report lies."""
    from vitquant import files
    from vitquant.report import tables

    click.echo(tables.summary(files.read_json(metrics), "simple"))
    click.echo(f"\nThe report: {report.resolve()}")
