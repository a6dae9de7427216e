"""`vitquant repro`: the study, with a line that says how long it takes."""

from pathlib import Path

import click

from vitquant.stages.common import read_params


@click.command("repro")
@click.pass_context
def command(context: click.Context) -> None:
    """Run `dvc repro`, and say how far it is and about how long is left; the exit status is DVC's."""
    from vitquant import progress

    times = context.find_root().params["params"].with_name("studies") / "times.json"
    context.exit(progress.follow(["dvc", "repro"], read_params(context).study, times, Path()))
