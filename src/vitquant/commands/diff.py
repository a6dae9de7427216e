"""`vitquant diff`: the results of two commits, side by side."""

from pathlib import Path

import click

from vitquant.commands.common import findings_option


@click.command("diff")
@click.argument("before", default="HEAD")
@click.argument("after", required=False)
@findings_option
def command(before: str, after: str | None, findings: Path) -> None:
    """Compare the results of commit BEFORE with those of AFTER, or of the work tree, as Markdown."""
    from vitquant.analysis import store
    from vitquant.analysis.compare import compare
    from vitquant.report import comparison

    changed = store.at(after) if after else store.read(findings).study
    click.echo(comparison.markdown(compare(store.at(before), changed), (before, after or "work tree")))
