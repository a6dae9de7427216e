"""`vitquant check`: the study's parameters, before anything runs."""

import click

from vitquant.stages.common import read_params


@click.command("check")
@click.pass_context
def command(context: click.Context) -> None:
    """Check params.yaml whole: each key and value, and the options of every recipe."""
    from vitquant import recipes

    recipes.check(read_params(context))
