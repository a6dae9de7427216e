"""`vitquant summary`: the result in a terminal, and in the README."""

from pathlib import Path

import click

from vitquant.commands.common import findings_option


@click.command("summary")
@findings_option
@click.option("--report", type=click.Path(path_type=Path), default=Path("results/report.md"), show_default=True)
@click.option("--readme", type=click.Path(path_type=Path), help="Also put the result between this file's markers.")
def command(findings: Path, report: Path, readme: Path | None) -> None:
    """Print the summary table of the last run, and where the report lies."""
    from vitquant.analysis import store
    from vitquant.report import readme as document
    from vitquant.report import tables

    found = store.read(findings)
    if readme:
        document.update(readme, found)
    click.echo(tables.summary(found.study, "simple"))
    click.echo(f"\nThe report: {report.resolve()} and {report.with_suffix('.html').resolve()}")
