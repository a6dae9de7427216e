"""`vitquant diff`: the results of two commits, side by side."""

from pathlib import Path

import click


@click.command("diff")
@click.argument("before", default="HEAD")
@click.argument("after", required=False)
@click.option("--metrics", type=click.Path(path_type=Path), default=Path("results/metrics.json"), show_default=True)
def command(before: str, after: str | None, metrics: Path) -> None:
    """Compare the results of commit BEFORE with those of AFTER, or of the work tree, as Markdown."""
    from vitquant.report.compare import at, compare
    from vitquant.report.metrics import damage, read

    with damage(f"the results of {before} or of {after or metrics}"):
        changed = at(after) if after else read(metrics)
        click.echo(compare(at(before), changed, (before, after or "work tree")))
