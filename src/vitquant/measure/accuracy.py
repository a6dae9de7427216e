"""Predictions of an artifact over the validation split."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.artifact import Predictor
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import environment
from vitquant.parallel import map_batches
from vitquant.params import Evaluate
from vitquant.results import form
from vitquant.results import predictions as arrays
from vitquant.results.accuracy import Accuracy, Predicted
from vitquant.traits import Traits


def evaluate(
    predictor: Predictor, prepared: Prepared, params: Evaluate, threads: int, out: Path, predictions: Path
) -> None:
    """Predict the validation split; write what that gave as JSON, the logits and the class tokens as .npz."""
    outputs, spec = predict(predictor, prepared, params, threads), predictor.artifact.spec
    logits, class_tokens = np.split(outputs, [len(spec.classes)], axis=1)
    predicted = Predicted(
        device="cuda" if predictor.device.type == "cuda" else "cpu",
        images=len(logits),
        logits_sha256=arrays.digest(logits),
        artifact_sha256=predictor.artifact.sha256,
        environment=environment.machine(),
    )
    arrays.write(predictions, {"logits": logits, "class_tokens": class_tokens})
    form.write(out, Accuracy(recipe=spec.recipe, traits=spec.traits, predicted=predicted, details=spec.details))


def write_unavailable(recipe: str, traits: Traits, reason: str, out: Path, predictions: Path) -> None:
    """Write why there is no accuracy of `recipe`, and no predictions."""
    arrays.write(predictions, {})
    form.write(out, Accuracy(recipe=recipe, traits=traits, unavailable=reason))


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
