"""`vitquant predict`: the classes of image files."""

import sys
from pathlib import Path
from typing import Any

import click

from vitquant.commands.common import artifact_options, chosen


@click.command("predict")
@click.argument("places", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@artifact_options
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes of an image at most.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "jsonl"]),
    help="Of the output. [default: table; with --out what its name ends in, else csv]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The file to write, or to go on with where it is there.")
def command(
    places: tuple[Path, ...],
    artifact: Path | None,
    recommended: bool,
    findings: Path,
    device: Any,
    top: int,
    form: Any,
    out: Path | None,
) -> None:
    """Classify image files and the images in folders: the most probable classes of each.

    What is no image is reported and skipped, and the exit code is 1. With --out, images that the file already has are
    left out, so that what was interrupted is gone on with.
    """
    from tqdm import tqdm

    from vitquant.errors import VitquantError, printable
    from vitquant.serving import many, rows
    from vitquant.serving.model import load_for_many

    form = form or ("table" if not out else "jsonl" if out.suffix == ".jsonl" else "csv")
    if out and form == "table":
        raise VitquantError("--format table is for a terminal: give csv or jsonl with --out")
    images = many.find(places)
    model, threads = load_for_many(chosen(artifact, recommended, findings), device)
    maker = rows.Rows(model.artifact, top)
    remaining = maker.remaining(images, out, form)
    shown, bad = [], 0
    with (
        threads,
        maker.open(out, form) as stream,
        tqdm(total=len(images), initial=len(images) - len(remaining), unit="img", disable=None) as bar,
    ):
        for prediction in many.predict(model, threads, remaining):
            bar.update()
            if prediction.probabilities is None:
                bad += 1
                bar.write(f"skipped: {printable(prediction.problem)}", file=sys.stderr)
            elif form == "table":
                shown.append(maker.row(prediction))
            else:
                maker.write(maker.row(prediction), stream, form)
    if shown:
        click.echo(rows.table(shown))
    if bad:
        raise VitquantError(f"{bad} of {len(images)} files could not be predicted: they are named above")
