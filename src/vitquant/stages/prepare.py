"""Stage `prepare`: images to arrays, once."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("prepare")
@path_option("--raw", "The fetched data.")
@path_option("--out", "Folder to write the arrays to.")
@click.pass_context
def command(context: click.Context, raw: Path, out: Path) -> None:
    """Decode, resize, crop and split the images into arrays that later stages memory-map."""
    from vitquant.data.prepare import prepare
    from vitquant.data.sources import SOURCES
    from vitquant.models.vit import preprocessing

    params = read_params(context)
    samples = SOURCES[params.data.source].samples(params.data, raw)
    prepare(samples, preprocessing(params.model.name, params.data), params.data, out)
