"""`vitquant check`: the study's parameters, before anything runs."""

import click

from vitquant.stages.common import read_params


@click.command("check")
@click.pass_context
def command(context: click.Context) -> None:
    """Check params.yaml whole: each key and value, the model's name and input, and the options of every recipe."""
    from vitquant import inputs, recipes
    from vitquant.models.vit import preprocessing

    params = read_params(context)
    file = context.find_root().params["params"]
    inputs.check(params, file.with_name("dvc.yaml"))
    preprocessing(params.model.name, params.data)
    recipes.check(params, file)
