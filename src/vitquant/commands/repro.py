"""`vitquant repro`: the study, with a line that says how long it takes."""

from pathlib import Path

import click

from vitquant.stages.common import read_params

# To make a recipe takes one core for the most part, to evaluate it all: two at once leave none idle. DVC by itself runs
# one after the other.
IN_TWO_LANES = r"""
dvc repro baseline
dvc stage list --name-only | sed -n 's/^quantize@\(.*\)/quantize@\1 evaluate@\1/p' |
    xargs -r -n 6 -P 2 dvc --wait-for-lock repro --single-item
dvc repro
"""


@click.command("repro")
@click.pass_context
def command(context: click.Context) -> None:
    """Do what `dvc repro` does, two recipes at a time, and say how far it is and about how long is left."""
    from vitquant import progress

    times = context.find_root().params["params"].with_name("studies") / "times.json"
    context.exit(progress.follow(["sh", "-ec", IN_TWO_LANES], read_params(context).study, times, Path()))
