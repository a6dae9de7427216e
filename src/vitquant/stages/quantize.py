"""Stage `quantize`: one recipe applied to the FP32 artifact."""

from pathlib import Path

import click

from vitquant.errors import VitquantError
from vitquant.stages.common import path_option, read_params


@click.command("quantize")
@click.argument("recipe")
@path_option("--fp32", "The FP32 artifact.")
@path_option("--data", "The prepared data; its train split calibrates.")
@path_option("--out", "The artifact to write.")
@click.pass_context
def command(context: click.Context, recipe: str, fp32: Path, data: Path, out: Path) -> None:
    """Apply RECIPE, a name under `recipes` in params.yaml, to the FP32 artifact."""
    from vitquant import recipes
    from vitquant.data.prepared import Prepared

    params = read_params(context)
    if recipe not in params.recipes:
        raise VitquantError(f"unknown recipe {recipe!r}: params.yaml has {', '.join(params.recipes)}")
    calibration = Prepared(data).calibration(params.calibration)
    recipes.build(recipe, params.recipes[recipe], fp32, out, calibration)
