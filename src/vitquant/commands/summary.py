"""`vitquant summary`: the result in a terminal, and in the README."""

from pathlib import Path

import click


@click.command("summary")
@click.option("--metrics", type=click.Path(path_type=Path), default=Path("results/metrics.json"), show_default=True)
@click.option("--report", type=click.Path(path_type=Path), default=Path("results/report.md"), show_default=True)
@click.option("--readme", type=click.Path(path_type=Path), help="Also put the result between this file's markers.")
def command(metrics: Path, report: Path, readme: Path | None) -> None:
    """Print the summary table of the last run, and where the report lies."""
    from vitquant.report import gpu_section, tables
    from vitquant.report import readme as document
    from vitquant.report.metrics import damage, read

    with damage(str(metrics)):
        content = read(metrics)
        if readme:
            document.update(readme, content, gpu_section.read(metrics.parent / "cuda"))
        click.echo(tables.summary(content, "simple"))
    click.echo(f"\nThe report: {report.resolve()} and {report.with_suffix('.html').resolve()}")
