"""The FP32 model: the study's ViT with its weights, and its linear head or none."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitquant import artifact, reference
from vitquant.artifact import Spec
from vitquant.data.prepared import Prepared
from vitquant.images import Preprocessing
from vitquant.models import download, imagenet_head, own_head, pooling, weights
from vitquant.models.vit import ViTClassifier
from vitquant.parallel import choose_device, map_batches
from vitquant.params import BASELINE, Dinov2Model, Evaluate, FileModel, Params
from vitquant.predictor import write_weights
from vitquant.reference import Reference
from vitquant.traits import FP32

UNTRAINED = "head: none: the head was never trained, so that its predictions mean nothing"


def build(params: Params, raw: Path, prepared: Prepared, destination: Path, threads: int) -> None:
    """Build the model, fit its head on the train split, and write the FP32 artifact.

    Args:
        raw: the fetched weights.

    Raises:
        VitquantError: the weights do not fit the architecture or are broken.
    """
    name, preprocessing = params.model.name, prepared.preprocessing
    model = ViTClassifier(name, preprocessing.crop, len(prepared.classes)).eval()
    classifier = weights.load_into(model, params.model, raw)
    details: dict[str, Any] = {}
    if params.head == "own":
        listed = own_head.read_classes(raw / download.CLASSES_FILE)
        own = params.model
        place = f"model.path: {own.path}" if isinstance(own, FileModel) else f"model.name: {own.name}"
        details["classifier"] = found = own_head.attach(model, classifier, prepared.classes, listed, place)
        print(f"baseline: the classifier's {found['classes']} classes: {found['rows']}", file=sys.stderr)
    elif params.head == "features":
        model.pooling = pooling.of_study(model.backbone, params.embedding.pooling, name)
        model.head = nn.Identity()

    def fill(directory: Path) -> dict[str, Any]:
        if params.head == "probe":
            details["probe"] = _fit_probe(model, preprocessing, prepared, params, threads)
        elif isinstance(params.model, Dinov2Model) and params.head == "imagenet1k":
            imagenet_head.load(raw / download.HEAD_FILE, prepared.classes, model.head, params.model.head_url)
        if prepared.classes and params.head != "features":
            reference.write(directory, _reference(model, preprocessing, prepared, params, threads))
        write_weights(directory, model.cpu().state_dict())
        return details

    spec = Spec(
        recipe=BASELINE,
        method="fp32",
        options={},
        traits=FP32,
        architecture=name,
        preprocessing=preprocessing,
        classes=[] if params.head == "features" else prepared.classes,
        pooling=model.pooling,
        no_accuracy=UNTRAINED if params.head == "none" else None,
    )
    artifact.write(destination, spec, fill)


def features(
    model: ViTClassifier,
    preprocessing: Preprocessing,
    images: NDArray[np.uint8],
    params: Evaluate,
    device: torch.device,
    threads: int,
) -> NDArray[np.float32]:
    """The model's features, float32 (N, F), of images, uint8 (N, H, W, 3); the model is on `device`."""

    def function(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return model.features(preprocessing.normalise(batch))

    return map_batches(function, images, params, device, threads, "baseline: features")


def _fit_probe(
    model: ViTClassifier, preprocessing: Preprocessing, prepared: Prepared, params: Params, threads: int
) -> dict[str, float]:
    """Fit the model's head on its features of the train split."""
    from vitquant.models import probe  # scikit-learn, which other heads do not need

    device = choose_device(params.device)
    train = features(model.to(device), preprocessing, prepared.images("train"), params.evaluate, device, threads)
    return probe.fit(train, prepared.labels("train"), params.probe, model.cpu().head)


def _reference(
    model: ViTClassifier, preprocessing: Preprocessing, prepared: Prepared, params: Params, threads: int
) -> Reference:
    """What the model makes of some of the val split's images."""
    images, device = prepared.images("val"), choose_device(params.device)
    chosen = images[reference.rows(len(images))]
    found = features(model.to(device), preprocessing, chosen, params.evaluate, device, threads)
    with torch.inference_mode():
        outputs = model.cpu().outputs(torch.from_numpy(found)).numpy()
    classes = len(prepared.classes)
    return Reference(np.ascontiguousarray(outputs[:, classes:]), np.ascontiguousarray(outputs[:, :classes]))
