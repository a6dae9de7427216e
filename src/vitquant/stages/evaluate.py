"""Stage `evaluate`: the accuracy of one artifact."""

from pathlib import Path

import click

from vitquant.errors import UnsupportedError
from vitquant.stages.common import path_option, read_params


@click.command("evaluate")
@path_option("--artifact", "The artifact to evaluate.")
@path_option("--data", "The prepared data.")
@path_option("--out", "The JSON file to write: top-1 and top-5 with their intervals.")
@path_option("--predictions", "The .npz file to write: the logits of every validation image.")
@click.pass_context
def command(context: click.Context, artifact: Path, data: Path, out: Path, predictions: Path) -> None:
    """Measure top-1, top-5 and per-image predictions of an artifact on the validation split."""
    import numpy as np

    from vitquant import recipes
    from vitquant.data.prepared import Prepared
    from vitquant.measure import accuracy
    from vitquant.measure.environment import threads

    params = read_params(context)
    try:
        predictor = recipes.load(artifact)
    except UnsupportedError as reason:
        summary = {"recipe": artifact.name, "unavailable": str(reason)}
        accuracy.write(summary, np.empty((0, 0), np.float32), out, predictions)
        return
    workers = threads(params.threads)
    accuracy.evaluate(predictor, Prepared(data), params.evaluate.batch_size, workers, out, predictions)
