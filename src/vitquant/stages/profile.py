"""Stage `profile`: where the time of a forward pass goes."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("profile")
@path_option("--artifacts", "Folder that holds the artifacts, one per recipe of params.yaml.")
@path_option("--data", "The prepared data.")
@path_option("--out", "The JSON file to write.")
@click.pass_context
def command(context: click.Context, artifacts: Path, data: Path, out: Path) -> None:
    """Profile the eager PyTorch recipes on the CPU: milliseconds per image by kind of operation."""
    from vitquant import files
    from vitquant.measure import operations
    from vitquant.measure.environment import threads

    params = read_params(context)
    paths = {name: artifacts / name for name, recipe in params.recipes.items() if recipe.method in operations.METHODS}
    files.write_json(out, operations.profile(paths, data, threads(params.threads)))
