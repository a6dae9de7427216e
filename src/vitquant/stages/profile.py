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
    from vitquant.cpu import threads
    from vitquant.measure import operations
    from vitquant.results import form

    params = read_params(context)
    paths = [artifacts / name for name in params.recipes]
    form.write(out, operations.profile(paths, data, threads(params.threads), params.max_slowdown))
