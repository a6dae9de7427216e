"""`vitquant drift`: what quantization, the monitor and recalibration do once images change."""

from pathlib import Path

import click

# with and without scales that calibration fixes
RECIPES = ("dynamic-int8", "static-int8", "onnxruntime-int8-dynamic", "openvino-int8-static", "vitquant-int8")


@click.command("drift")
@click.option(
    "--recipe", "names", multiple=True, help="A recipe; repeatable. By default some with fixed scales, some without."
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=80,
    show_default=True,
    help="Of the validation split, evenly over its classes.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results/drift"), show_default=True, help="Where it goes."
)
@click.pass_context
def command(context: click.Context, names: tuple[str, ...], images: int, out: Path) -> None:
    """Measure recipes on the study's images with another light, lens or camera, and calibrated anew by such images.

    `make repro` then reports it. What was interrupted is gone on with.
    """
    from vitquant.monitoring import study
    from vitquant.stages.common import read_params

    params = read_params(context)
    names = names or tuple(name for name in RECIPES if name in params.recipes)
    measured = study.measure(params, names, images, Path(), out, say=click.echo)
    for name, reason in measured.left_out.items():
        click.echo(f"{name} is left out: {reason}")
    click.echo(f"{out} was written: `make repro` reports it")
