"""Predictions of an artifact over the validation split, and how often they are right."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant import files
from vitquant.artifact import Predictor
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import environment, statistics
from vitquant.parallel import map_batches
from vitquant.params import Evaluate
from vitquant.traits import Traits


def evaluate(
    predictor: Predictor, prepared: Prepared, params: Evaluate, threads: int, out: Path, predictions: Path
) -> None:
    """Predict the validation split; write the summary as JSON and the logits as .npz."""
    logits = predict(predictor, prepared, params, threads)
    spec = predictor.artifact.spec
    summary = {"recipe": spec.recipe, "traits": spec.traits.model_dump(mode="json")}
    summary |= {**summarize(logits, prepared.labels("val")), "device": predictor.device.type}
    summary |= {"artifact_sha256": predictor.artifact.sha256, "environment": environment.machine()}
    summary["details"] = spec.details
    write(summary, logits, out, predictions)


def write_unavailable(recipe: str, traits: Traits, reason: str, out: Path, predictions: Path) -> None:
    """Write why there is no accuracy of `recipe`."""
    summary = {"recipe": recipe, "traits": traits.model_dump(mode="json"), "unavailable": reason}
    write(summary, np.empty((0, 0), np.float32), out, predictions)


def write(summary: dict[str, Any], logits: NDArray[np.float32], out: Path, predictions: Path) -> None:
    """Write `summary` as JSON to `out`, and `logits`, float32 (N, C), as .npz to `predictions`."""
    with files.atomic(predictions) as partial, partial.open("wb") as file:
        np.savez(file, logits=logits)
    files.write_json(out, summary)


def predict(predictor: Predictor, prepared: Prepared, params: Evaluate, threads: int) -> NDArray[np.float32]:
    """Logits of every validation image, float32 (N, C), in the split's order.

    Raises:
        VitquantError: the artifact was made for other classes, or an output is not finite.
    """
    spec = predictor.artifact.spec
    if spec.classes != prepared.classes:
        raise VitquantError(f"{predictor.artifact.path} is for other classes than {prepared.path}: run `dvc repro`")

    def function(images: Tensor) -> Tensor:
        return torch.from_numpy(predictor(images))

    images, description = prepared.images("val"), f"evaluate {spec.recipe}"
    return map_batches(function, images, params, predictor.device, threads, description)


def summarize(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Top-1 and, where there are more than five classes, top-5, each with its interval, in percent."""
    summary: dict[str, Any] = {"images": len(labels)}
    for k in (1, 5):
        if k < logits.shape[1]:
            estimate = statistics.proportion(statistics.hits(logits, labels, k))
            summary[f"top{k}_pct"] = round(estimate.value, 2)
            summary[f"top{k}_ci95_pct"] = [round(estimate.low, 2), round(estimate.high, 2)]
    return summary
