"""Stage `baseline`: the FP32 classifier."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("baseline")
@path_option("--raw", "The fetched weights.")
@path_option("--data", "The prepared data.")
@path_option("--out", "The artifact to write.")
@click.pass_context
def command(context: click.Context, raw: Path, data: Path, out: Path) -> None:
    """Build the FP32 ViT, fit its linear head on the train split, and write the FP32 artifact."""
    from vitquant.cpu import threads
    from vitquant.data.prepared import Prepared
    from vitquant.models.baseline import build

    params = read_params(context)
    build(params, raw, Prepared(data), out, threads(params.threads))
