"""`vitquant study`: a person's own images and model, in one line."""

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)


@click.command("study")
@click.option("--images", type=PATH, required=True, help="A folder per class, or such folders below train and val.")
@click.option("--model", required=True, help="timm's name of the ViT.")
@click.option("--weights", type=PATH, help="Your checkpoint; else those that timm publishes are downloaded.")
@click.option("--classes", type=PATH, help="The checkpoint's classes, one a line, where the folders are some of them.")
@click.option(
    "--head",
    type=click.Choice(["own", "probe", "features"]),
    help="What classifies: the checkpoint's classifier, one fitted on your images, or nothing: embeddings. By default "
    "the checkpoint's where it fits the folders, else one that is fitted.",
)
@click.option("--recipes", multiple=True, help="Names in params.yaml, with commas between them, or all.")
@click.option("--name", help="Of the study; by default the folder's and the model's.")
@click.option("--out", type=PATH, default=Path("experiments"), show_default=True, help="Where file and results go.")
@click.option("--dry-run", is_flag=True, help="Write the study file, and run nothing.")
@click.pass_context
def command(
    context: click.Context,
    images: Path,
    model: str,
    weights: Path | None,
    classes: Path | None,
    head: Any,
    recipes: tuple[str, ...],
    name: str | None,
    out: Path,
    dry_run: bool,
) -> None:
    """Write a study file of your images and your model, and run it as `vitquant experiment` does."""
    from vitquant import new_study
    from vitquant.commands import experiment

    names = [each.strip() for part in recipes for each in part.split(",") if each.strip()]
    wanted = new_study.Wanted(images, model, weights, classes, head, names, name)
    file, why = new_study.write(wanted, context.find_root().params["params"], out)
    click.echo(f"{file}: {why}. To change more, edit it and run `vitquant experiment {file}`")
    if not dry_run:
        context.invoke(experiment.command, study=file, out=out)
