"""Stage `report`: everything joined."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("report")
@path_option("--data", "The prepared data.")
@path_option("--accuracy", "Folder with a JSON file per recipe.")
@path_option("--predictions", "Folder with an .npz file per recipe.")
@path_option("--benchmark", "The benchmark's JSON file.")
@path_option("--metrics", "The JSON file to write.")
@path_option("--out", "The Markdown file to write.")
@path_option("--figures", "Folder to write the figures to.")
@click.pass_context
def command(  # one option per path of the stage
    context: click.Context,
    data: Path,
    accuracy: Path,
    predictions: Path,
    benchmark: Path,
    metrics: Path,
    out: Path,
    figures: Path,
) -> None:
    """Join all results: paired statistics, metrics.json, tables and figures."""
    from vitquant.report import build
    from vitquant.report.metrics import Inputs

    build.report(read_params(context), Inputs(data, accuracy, predictions, benchmark), metrics, out, figures)
