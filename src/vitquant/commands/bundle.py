"""`vitquant bundle`: an artifact that runs with NumPy alone, in a folder to take along."""

import shlex
from pathlib import Path

import click


@click.command("bundle")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def command(artifact: Path, out: Path) -> None:
    """Pack ARTIFACT, of vitquant-int8, and the code compiled for CPUs like this one into the folder OUT.

    `python OUT/run.py images.npy` then classifies on any such machine with NumPy, without vitquant, PyTorch or a
    compiler. OUT must not exist.
    """
    from vitquant.artifact import open_artifact
    from vitquant.runtime import bundle

    bundle.write(open_artifact(artifact), out)
    click.echo(f"{out}: python {shlex.quote(str(out / 'run.py'))} images.npy")
