"""Predictions of an artifact over the validation split."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.data.prepared import Prepared
from vitquant.data.samples import Split
from vitquant.errors import VitquantError
from vitquant.measure import environment, neighbours
from vitquant.parallel import map_batches
from vitquant.params import Embedding, Evaluate
from vitquant.predictor import Predictor
from vitquant.results import form
from vitquant.results import predictions as arrays
from vitquant.results.accuracy import AS_FP32, LARGE_BATCH, ROUNDING, Accuracy, LargeBatch, Predicted
from vitquant.traits import Traits

COMPARED = 32  # calibration images that show whether an engine computes what FP32 does


def evaluate(
    predictor: Predictor,
    prepared: Prepared,
    params: Evaluate,
    threads: int,
    out: Path,
    predictions: Path,
    embedding: Embedding | None = None,
    as_fp32: bool = False,
) -> None:
    """Predict the validation split; write what that gave as JSON, the logits and the embeddings as .npz.

    A recipe whose scales span the batch predicts it at `batch_size` on any device, and one of LARGE_BATCH images
    once more at `large_batch`.

    Args:
        embedding: how an artifact without classes classifies: by the neighbours in the train split, which it predicts
            too; what stands for logits then are the logarithms of the shares of the votes.
        as_fp32: it is one of which `equals_fp32` is true, so that it predicts one of AS_FP32 images alone.
    """
    spec = predictor.artifact.spec
    batch_scales, classes = spec.traits.batch_scales, len(spec.classes)
    alone = _at(params, params.batch_size) if batch_scales else params
    outputs = predict(predictor, prepared, alone, threads, rows=prepared.part(AS_FP32) if as_fp32 else None)
    logits, class_tokens = np.split(outputs, [classes], axis=1)
    stored: dict[str, NDArray[Any]] = {"class_tokens": class_tokens}
    bank = None
    if not classes:
        assert embedding
        bank = predict(predictor, prepared, alone, threads, "train")
        logits, stored["nearest"] = _votes(bank, class_tokens, prepared, embedding)
    stored, large_batch = {"logits": logits, **stored}, None
    if batch_scales:
        rows = prepared.part(LARGE_BATCH)
        large = predict(predictor, prepared, _at(params, params.large_batch), threads, rows=rows)
        if bank is not None and embedding:
            large, _ = _votes(bank, large, prepared, embedding)
        large = stored["logits_large_batch"] = large[:, : logits.shape[1]]
        large_batch = LargeBatch(size=params.large_batch, logits_sha256=arrays.digest(large))
    predicted = Predicted(
        device="cuda" if predictor.device.type == "cuda" else "cpu",
        images=len(logits),
        as_fp32=as_fp32,
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


def equals_fp32(predictor: Predictor, baseline: Predictor, images: NDArray[np.uint8]) -> bool:
    """Whether a recipe computes what the baseline does but for rounding, as logits of a few images show.

    It is asked of recipes that compute in FP32 and classify; of others it is not true.

    Args:
        images: of the train split, uint8 (N, H, W, 3).
    """
    spec = predictor.artifact.spec
    return (
        bool(spec.classes)
        and spec.traits.arithmetic == "float32"
        and all(np.abs(predictor(each[None]) - baseline(each[None])).max() <= ROUNDING for each in images[:COMPARED])
    )


def _at(params: Evaluate, size: int) -> Evaluate:
    """The same with batches of `size` images on every device."""
    return params.model_copy(update={"batch_size": size, "cuda_batch_size": size})


def _votes(
    bank: NDArray[np.float32], queries: NDArray[np.float32], prepared: Prepared, embedding: Embedding
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return neighbours.votes(bank, prepared.labels("train"), queries, len(prepared.classes), embedding)


def predict(
    predictor: Predictor,
    prepared: Prepared,
    params: Evaluate,
    threads: int,
    split: Split = "val",
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Logits and embedding of every image of a split, float32 (N, C + D), in the split's order.

    Args:
        rows: of the split, which are predicted alone.

    Raises:
        VitquantError: the artifact was made for other classes, or an output is not finite.
    """
    spec = predictor.artifact.spec
    if spec.classes and spec.classes != prepared.classes:
        raise VitquantError(f"{predictor.artifact.path} is for other classes than {prepared.path}: run `dvc repro`")

    def function(images: Tensor) -> Tensor:
        return torch.from_numpy(predictor.outputs(images))

    images, description = prepared.images(split), f"evaluate {spec.recipe}"
    images = images if rows is None else images[rows]
    return map_batches(function, images, params, predictor.device, threads, description)
