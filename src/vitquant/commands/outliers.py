"""`vitquant outliers`: how each recipe bears activations with outliers, as larger models have them."""

from pathlib import Path

import click

from vitquant.commands.common import Number

RECIPES = (  # one of each kind of scale for activations
    *("dynamic-int8", "torchao-int8-dynamic", "static-int8", "onnxruntime-int8-dynamic", "openvino-int8-static"),
    "vitquant-int8",
)


@click.command("outliers")
@click.option(
    "--recipe",
    "names",
    multiple=True,
    help="A recipe; repeatable. By default one of each kind that quantizes activations.",
)
@click.option(
    "--factor", "factors", type=Number(1), multiple=True, default=(4, 16, 64), show_default=True,
    help="Of the outliers; repeatable.",
)  # fmt: skip
@click.option(
    "--images", type=click.IntRange(1), default=200, show_default=True,
    help="Of the validation split, evenly over its classes.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results/outliers"), show_default=True, help="Where it goes."
)
@click.pass_context
def command(context: click.Context, names: tuple[str, ...], factors: tuple[float, ...], images: int, out: Path) -> None:
    """Put outliers into the study's weights and measure how recipes agree with FP32; `make repro` then reports it."""
    from vitquant.analysis import outliers as analysis
    from vitquant.measure import outliers
    from vitquant.stages.common import read_params

    params = read_params(context)
    names = names or tuple(name for name in RECIPES if name in params.recipes)
    measured = outliers.measure(params, names, factors, images, Path(), out)
    for found in analysis.bearing(measured):
        shares = ", ".join(f"{share.value:.1f} % at {factor:g}" for factor, share in found.agreement.items())
        click.echo(f"{found.kind}, {found.recipe}: agreement {shares}")
    for name, reason in measured.left_out.items():
        click.echo(f"{name} is left out: {reason}")
