"""Stage `tails`: the tails of the recommended recipe's latency."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("tails")
@path_option("--artifacts", "Folder that holds the artifacts, one per recipe of params.yaml.")
@path_option("--data", "The prepared data.")
@path_option("--accuracy", "Folder with a JSON file per recipe.")
@path_option("--predictions", "Folder with an .npz file per recipe.")
@path_option("--benchmark", "The benchmark's JSON file.")
@path_option("--out", "The JSON file to write.")
@click.pass_context
def command(  # one option per path of the stage
    context: click.Context, artifacts: Path, data: Path, accuracy: Path, predictions: Path, benchmark: Path, out: Path
) -> None:
    """Time many passes in a row of the recommended recipe, at batch 1 on the CPU."""
    from vitquant.analysis.analyse import analyse, possible
    from vitquant.analysis.load import Inputs, load
    from vitquant.analysis.recommend import recommended
    from vitquant.cpu import threads
    from vitquant.measure import tails
    from vitquant.results import form
    from vitquant.results.tails import Tails

    params = read_params(context)
    with possible():
        name = recommended(analyse(load(params, Inputs(data, accuracy, predictions, benchmark))).study)
    found = Tails(unavailable="no recipe is recommended, since accuracy was not measured")
    if name:
        found = tails.run(artifacts / name, data, params.benchmark, threads(params.threads))
    form.write(out, found)
