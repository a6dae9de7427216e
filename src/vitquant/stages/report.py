"""Stage `report`: everything joined."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("report")
@path_option("--data", "The prepared data.")
@path_option("--accuracy", "Folder with a JSON file per recipe.")
@path_option("--predictions", "Folder with an .npz file per recipe.")
@path_option("--benchmark", "The benchmark's JSON file.")
@path_option("--profile", "The profile's JSON file; there may be none.")
@path_option("--cuda", "Folder with a JSON file per GPU; there may be none.")
@path_option("--draws", "Folder with draws.json, of `vitquant draws`; there may be none.")
@path_option("--outliers", "Folder with outliers.json, of `vitquant outliers`; there may be none.")
@path_option("--drift", "Folder with drift.json, of `vitquant drift`; there may be none.")
@path_option("--studies", "Folder with the findings of other studies, one folder each; there may be none.")
@path_option("--tails", "The JSON file of the tails; there may be none.")
@path_option("--serving", "Folder with serving.json, of `vitquant serving`; there may be none.")
@path_option("--out", "Folder to write the findings, the report and the figures to.")
@click.pass_context
def command(  # one option per path of the stage
    context: click.Context,
    data: Path,
    accuracy: Path,
    predictions: Path,
    benchmark: Path,
    profile: Path,
    cuda: Path,
    draws: Path,
    outliers: Path,
    drift: Path,
    studies: Path,
    tails: Path,
    serving: Path,
    out: Path,
) -> None:
    """Analyse all results: findings, flat metrics, tables, figures and the report in Markdown and HTML."""
    from vitquant.analysis.load import Inputs
    from vitquant.report import build

    inputs = Inputs(data, accuracy, predictions, benchmark, profile, cuda, draws, tails)
    build.report(read_params(context), inputs, out, build.Beside(outliers, studies, serving, drift))
