"""The FP32 classifier: the study's ViT with its weights, and a linear head fitted on its features."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitquant import artifact
from vitquant.artifact import Preprocessing, Spec
from vitquant.data.prepared import Prepared
from vitquant.models import probe, weights
from vitquant.models.vit import ViTClassifier, normalisation
from vitquant.parallel import map_batches
from vitquant.params import Params


def build(params: Params, raw: Path, prepared: Prepared, destination: Path, threads: int) -> None:
    """Build the model, fit its head on the train split, and write the FP32 artifact.

    Args:
        raw: the fetched weights.

    Raises:
        VitquantError: the weights do not fit the architecture or are broken.
    """
    name, side = params.model.name, params.data.crop
    model = ViTClassifier(name, side, len(prepared.classes)).eval()
    weights.load_into(model, params.model, raw)
    mean, std = normalisation(name)
    preprocessing = Preprocessing(resize=params.data.resize, crop=side, mean=mean, std=std)

    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model.features(preprocessing.to_tensor(images)))

    def fill(directory: Path) -> dict[str, Any]:
        train = map_batches(features, prepared.images("train"), 1, threads, "baseline: features")
        details = probe.fit(train, prepared.labels("train"), params.probe, model.head)
        artifact.write_weights(directory, model.state_dict())
        return {"probe": details}

    spec = Spec(
        recipe="fp32",
        method="fp32",
        options={},
        architecture=name,
        preprocessing=preprocessing,
        classes=prepared.classes,
    )
    artifact.write(destination, spec, fill)
