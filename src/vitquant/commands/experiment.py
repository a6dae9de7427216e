"""`vitquant experiment`: another study, beside the committed one."""

from pathlib import Path

import click


@click.command("experiment")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one more parameter; repeatable.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("experiments"), show_default=True, help="Where results go."
)
@click.option("--publish", is_flag=True, help="Copy its findings to results/studies too, where the report shows them.")
@click.pass_context
def command(context: click.Context, study: Path, changes: tuple[str, ...], out: Path, publish: bool) -> None:
    """Run STUDY, a file of sections that replace those of params.yaml, as a DVC experiment."""
    from vitquant import experiment
    from vitquant.analysis import store
    from vitquant.report import precision, tables

    results = experiment.run(study, context.find_root().params["params"], changes, out) / "results"
    if publish:
        experiment.publish(results, Path("results/studies") / study.stem)
    found = store.read(results / "findings.json").study
    click.echo(f"{tables.summary(found, 'simple')}\n\n{precision.sentence(found)}")
    click.echo(f"\nThe report: {(results / 'report.md').resolve()}\nCompare: dvc exp show, dvc exp diff")
