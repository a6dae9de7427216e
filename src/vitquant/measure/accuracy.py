"""Predictions of an artifact over the validation split."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import environment
from vitquant.parallel import map_batches
from vitquant.params import Evaluate
from vitquant.predictor import Predictor
from vitquant.results import form
from vitquant.results import predictions as arrays
from vitquant.results.accuracy import Accuracy, LargeBatch, Predicted
from vitquant.traits import Traits


def evaluate(
    predictor: Predictor, prepared: Prepared, params: Evaluate, threads: int, out: Path, predictions: Path
) -> None:
    """Predict the validation split; write what that gave as JSON, the logits and the class tokens as .npz.

    A recipe whose scales span the batch predicts it at `batch_size` on any device, and once more at `large_batch`.
    """
    spec = predictor.artifact.spec
    batch_scales, classes = spec.traits.batch_scales, len(spec.classes)
    outputs = predict(predictor, prepared, _at(params, params.batch_size) if batch_scales else params, threads)
    logits, class_tokens = np.split(outputs, [classes], axis=1)
    stored, large_batch = {"logits": logits, "class_tokens": class_tokens}, None
    if batch_scales:
        large = predict(predictor, prepared, _at(params, params.large_batch), threads)[:, :classes]
        stored["logits_large_batch"] = large
        large_batch = LargeBatch(size=params.large_batch, logits_sha256=arrays.digest(large))
    predicted = Predicted(
        device="cuda" if predictor.device.type == "cuda" else "cpu",
        images=len(logits),
        logits_sha256=arrays.digest(logits),
        artifact_sha256=predictor.artifact.sha256,
        environment=environment.machine(),
        large_batch=large_batch,
    )
    arrays.write(predictions, stored)
    form.write(out, Accuracy(recipe=spec.recipe, traits=spec.traits, predicted=predicted, details=spec.details))


def write_unavailable(recipe: str, traits: Traits, reason: str, out: Path, predictions: Path) -> None:
    """Write why there is no accuracy of `recipe`, and no predictions."""
    arrays.write(predictions, {})
    form.write(out, Accuracy(recipe=recipe, traits=traits, unavailable=reason))


def _at(params: Evaluate, size: int) -> Evaluate:
    """The same with batches of `size` images on every device."""
    return params.model_copy(update={"batch_size": size, "cuda_batch_size": size})


def predict(predictor: Predictor, prepared: Prepared, params: Evaluate, threads: int) -> NDArray[np.float32]:
    """Logits and class token of every validation image, float32 (N, C + D), in the split's order.

    Raises:
        VitquantError: the artifact was made for other classes, or an output is not finite.
    """
    spec = predictor.artifact.spec
    if spec.classes != prepared.classes:
        raise VitquantError(f"{predictor.artifact.path} is for other classes than {prepared.path}: run `dvc repro`")

    def function(images: Tensor) -> Tensor:
        return torch.from_numpy(predictor.outputs(images))

    images, description = prepared.images("val"), f"evaluate {spec.recipe}"
    return map_batches(function, images, params, predictor.device, threads, description)
