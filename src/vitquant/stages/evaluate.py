"""Stage `evaluate`: the accuracy of one artifact."""

from pathlib import Path

import click

from vitquant.errors import UnsupportedError
from vitquant.stages.common import path_option, read_params


@click.command("evaluate")
@path_option("--artifact", "The artifact to evaluate.")
@path_option("--fp32", "The FP32 artifact, which tells what is too slow.")
@path_option("--data", "The prepared data.")
@path_option("--out", "The JSON file to write: top-1 and top-5 with their intervals.")
@path_option("--predictions", "The .npz file to write: the logits of every validation image.")
@click.pass_context
def command(context: click.Context, artifact: Path, fp32: Path, data: Path, out: Path, predictions: Path) -> None:
    """Measure top-1, top-5 and per-image predictions of an artifact on the validation split."""
    from vitquant import recipes
    from vitquant.artifact import open_artifact
    from vitquant.cpu import threads
    from vitquant.data.prepared import Prepared
    from vitquant.measure import accuracy, slowness
    from vitquant.parallel import choose_device
    from vitquant.params import BASELINE

    params = read_params(context)
    prepared, cores = Prepared(data), threads(params.threads)
    spec, as_fp32 = open_artifact(artifact).spec, False
    try:
        if spec.no_accuracy:
            raise UnsupportedError(spec.no_accuracy)
        predictor = recipes.load(artifact, choose_device(params.device))
        if spec.recipe != BASELINE:
            baseline, images = recipes.load(fp32), prepared.images("val")[: params.evaluate.batch_size]
            # on one core, as images are predicted: two that share an image wait for each other, and far longer where
            # another recipe is made meanwhile, as `vitquant repro` does
            slowness.check(predictor, baseline, images, params.max_slowdown, 1)
            as_fp32 = accuracy.equals_fp32(predictor, baseline, prepared.calibration(params.calibration))
    except UnsupportedError as reason:
        accuracy.write_unavailable(spec.recipe, spec.traits, str(reason), out, predictions)
        return
    accuracy.evaluate(predictor, prepared, params.evaluate, cores, out, predictions, params.embedding, as_fp32)
