"""Stage `fetch`: weights and data from their source, verified."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("fetch")
@path_option("--data", "Folder to write the raw data to.")
@path_option("--model", "Folder to write the raw weights to.")
@click.pass_context
def command(context: click.Context, data: Path, model: Path) -> None:
    """Get the weights and the data from their source and verify their digests."""
    from vitquant import files
    from vitquant.data.sources import SOURCES
    from vitquant.models import download

    params = read_params(context)
    with files.atomic(data) as partial:
        partial.mkdir()
        SOURCES[params.data.source].fetch(params.data, partial)
    with files.atomic(model) as partial:
        partial.mkdir()
        download.fetch(params.model, params.head, partial)
