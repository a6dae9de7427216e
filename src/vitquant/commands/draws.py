"""`vitquant draws`: how much of the accuracy is the draw of the calibration images, the probe and the split."""

from pathlib import Path

import click

from vitquant.commands.common import findings_option


@click.command("draws")
@click.option(
    "--recipe", "names", multiple=True, help="A recipe; repeatable. By default those that the findings choose."
)
@click.option(
    "--seeds", type=click.IntRange(2), default=5, show_default=True, help="Of each kind, the study's own too."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results/draws"), show_default=True, help="Where it goes."
)
@findings_option
@click.pass_context
def command(context: click.Context, names: tuple[str, ...], seeds: int, out: Path, findings: Path) -> None:
    """Measure top-1 with other calibration images, probes and splits, by their seeds; `make repro` then reports it."""
    from vitquant.analysis import draws as analysis
    from vitquant.analysis import store
    from vitquant.measure import draws
    from vitquant.stages.common import read_params

    params = read_params(context)
    study = store.read(findings).study
    measured = draws.measure(params, names or analysis.subjects(study), seeds, Path(), out)
    for spread in analysis.spreads(measured.rows):
        click.echo(f"{spread.recipe}, {spread.kind}: {spread.mean:+.2f} pp, standard deviation {spread.sd:.2f} pp")
    for what, reason in measured.left_out.items():
        click.echo(f"{what} is left out: {reason}")
