"""Stage `inputs`: the fingerprint of the files that the study reads, on which fetch depends."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("inputs")
@path_option("--pipeline", "dvc.yaml.")
@path_option("--out", "The JSON file to write.")
@click.pass_context
def command(context: click.Context, pipeline: Path, out: Path) -> None:
    """See that DVC would delete nothing that the study reads, and write the fingerprint of those files."""
    from vitquant import files, inputs

    params = read_params(context)
    inputs.check(params, pipeline)
    files.write_json(out, inputs.fingerprint(params))
