"""`vitquant check`: the study's parameters, before anything runs."""

import click

from vitquant.stages.common import read_params


@click.command("check")
@click.pass_context
def command(context: click.Context) -> None:
    """Check params.yaml whole: each key and value, the models' names and input, and the options of every recipe."""
    from vitquant import inputs, recipes
    from vitquant.models import vit
    from vitquant.models.names import check_name

    params = read_params(context)
    file = context.find_root().params["params"]
    inputs.check(params, file.with_name("dvc.yaml"))
    vit.check(params)
    for name in params.cuda.speed_only:
        check_name(name, f"{file}: cuda.speed_only")
    recipes.check(params, file)
