"""`vitquant recalibrate`: an artifact once more, by images that were served."""

from pathlib import Path

import click

from vitquant.commands.common import Number


@click.command("recalibrate")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="What `vitquant serve --keep-images` keeps.",
)
@click.option(
    "--validate", type=click.Path(path_type=Path), metavar="DATA", help="The study's data/processed, to compare on too."
)
@click.option(
    "--fp32",
    type=click.Path(path_type=Path),
    default=Path("models/baseline"),
    show_default=True,
    help="The artifact that ARTIFACT was made of.",
)
@click.option(
    "--mix",
    type=Number(0, 1, max_open=True),
    default=0,
    show_default=True,
    help="The share of calibration images that are the study's own.",
)
@click.option(
    "--margin",
    type=Number(0, 100, min_open=True),
    default=2,
    show_default=True,
    help="The loss that is borne, percentage points.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The artifact to write.")
def command(
    artifact: Path, images: Path, validate: Path | None, fp32: Path, mix: float, margin: float, out: Path
) -> None:
    """Build ARTIFACT's recipe again with calibration images from one half of a sample of served images.

    It is compared with ARTIFACT on the other half, by agreement with FP32, and on the study's validation images, by
    accuracy, and written only where it is shown to lose less than the margin on both.
    """
    from vitquant.data.prepared import Prepared
    from vitquant.monitoring import reservoir
    from vitquant.monitoring.recalibration import recalibrate

    prepared = Prepared(validate) if validate else None
    recalibrate(artifact, fp32, reservoir.read(images), out, margin, prepared, mix, say=click.echo)
    click.echo(f"{out} was written")
