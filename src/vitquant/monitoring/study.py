"""The study of drift: what recipes, the monitor and recalibration make of the study's images once these change."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant import files, recipes, reference
from vitquant.artifact import Artifact, open_artifact
from vitquant.cpu import threads
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.measure.drifted import drifted
from vitquant.measure.environment import environment
from vitquant.monitoring import drift
from vitquant.parallel import choose_device, map_batches
from vitquant.params import BASELINE, Params
from vitquant.predictor import Predictor
from vitquant.results import form, outliers
from vitquant.results.drift import CLEAN, FILE, STRENGTHS, Drifts, Inputs, Kind, Recalibrated, Row, encoded

SEED = 0  # of the stream's order, and of noise; that of calibration images is the next
PLAN = [(CLEAN, 0.0), *((kind, strength) for kind, strengths in STRENGTHS.items() for strength in strengths)]
MEND = "delete it, and run `make drift`"


def measure(
    params: Params, names: Sequence[str], images: int, root: Path, out: Path, say: Callable[[str], None]
) -> Drifts:
    """Write drift.json into the folder `out`, drift by drift; what it has of the same inputs is not computed again.

    Args:
        names: of the recipes, beside FP32.
        images: of the validation split, evenly over its classes, none of which the reference has.
        root: the repository, where `dvc repro` has run as far as stage `baseline`; recipes whose artifacts are not
            there are built.
        say: is told what comes next.

    Raises:
        VitquantError: that has not run, the study has no classifier or not these recipes, or the file cannot be read.
    """
    return _Study(params, root, images, say).measure(names, out)


def stream(labels: NDArray[np.int64], images: int) -> NDArray[np.int64]:
    """Rows of the validation split in random order: so many, evenly over its classes, and not those of the reference.

    Where the reference has all, they are of all.
    """
    every = np.arange(len(labels))
    others = np.setdiff1d(every, reference.rows(len(labels)))
    rows = others if len(others) else every
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    places = np.linspace(0, len(by_class) - 1, min(images, len(by_class))).round().astype(int)
    return np.random.default_rng(SEED).permutation(by_class[places])


class _Study:
    def __init__(self, params: Params, root: Path, images: int, say: Callable[[str], None]) -> None:
        if params.head in ("none", "features"):
            raise VitquantError(f"head: {params.head}: there is no classifier, so that no accuracy can drift")
        self.params, self.root, self.folder, self.say = params, root, root / "models/drift", say
        self.baseline = open_artifact(root / "models/baseline")
        self.reference = reference.read(self.baseline)
        prepared = Prepared(root / "data/processed")
        self.calibration = prepared.calibration(params.calibration)
        labels = prepared.labels("val")
        rows = stream(labels, images)
        self.images, self.labels = prepared.images("val")[rows], labels[rows]
        self.predictors: dict[str, Predictor] = {}

    def measure(self, names: Sequence[str], out: Path) -> Drifts:
        names = [name for name in dict.fromkeys(names) if name != BASELINE]
        if unknown := [name for name in names if name not in self.params.recipes]:
            raise VitquantError(f"unknown recipe {unknown[0]!r}: params.yaml has {', '.join(self.params.recipes)}")
        try:
            found = self._begin(names, out / FILE)
            for kind, strength in PLAN:
                if (kind, strength) not in [(row.kind, row.strength) for row in found.rows]:
                    found.rows.append(self._row(kind, strength))
                    form.write(out / FILE, found)
            for kind, strengths in STRENGTHS.items():
                self._recalibrate(found, kind, strengths[-1])
                form.write(out / FILE, found)
        finally:
            files.remove(self.folder)
        return found

    def _begin(self, names: Sequence[str], file: Path) -> Drifts:
        """Load the artifacts; what the file has of them and of these images, or nothing yet."""
        left_out: dict[str, str] = {}
        for name in (BASELINE, *names):
            try:
                self.predictors[name] = self._load(self.baseline if name == BASELINE else self._artifact(name))
            except UnsupportedError as reason:
                left_out[name] = str(reason)
        found = Drifts(
            labels=self.labels.tolist(),
            inputs=outliers.inputs(self.params, self.predictors),
            artifacts={name: predictor.artifact.sha256 for name, predictor in self.predictors.items()},
            environment=environment(threads=threads(self.params.threads)),
            left_out=left_out,
        )
        before = form.read(file, Drifts, MEND) if file.exists() else None
        parts = ("labels", "inputs", "artifacts", "environment", "left_out")
        return before if before and all(getattr(before, part) == getattr(found, part) for part in parts) else found

    def _artifact(self, name: str) -> Artifact:
        """The study's own, or where it is missing one that is built now."""
        path = self.root / "models/recipes" / name
        if path.exists():
            return open_artifact(path)
        return self._build(name, self.folder / "recipes", self.calibration)

    def _build(self, name: str, folder: Path, calibration: NDArray[np.uint8]) -> Artifact:
        self.say(f"{name} is built")
        recipes.build(name, self.params.recipes[name], self.baseline.path, folder / name, calibration)
        return open_artifact(folder / name)

    def _load(self, artifact: Artifact) -> Predictor:
        return recipes.load(artifact.path, choose_device(self.params.device))

    def _row(self, kind: Kind, strength: float) -> Row:
        self.say(f"{kind} {strength:g}" if strength else "the images as they are")
        images, width = drifted(self.images, kind, strength, SEED), len(self.baseline.spec.classes)
        predicted: dict[str, str] = {}
        for name, predictor in self.predictors.items():
            outputs = self._outputs(predictor, images)
            predicted[name] = encoded(outputs[:, :width].argmax(axis=1))
            if name == BASELINE:
                inputs = self._inputs(outputs[: drift.MOST, width:], outputs[: drift.MOST, :width])
        return Row(kind=kind, strength=strength, predicted=predicted, inputs=inputs)

    def _inputs(self, embedding: NDArray[np.float32], logits: NDArray[np.float32]) -> Inputs | None:
        kept = self.reference
        if kept is None or len(logits) < drift.FEWEST:
            return None
        confidences = drift.confidence(logits), drift.confidence(kept.logits)
        found = drift.compare(embedding, confidences[0], kept.embedding, confidences[1])
        return Inputs(
            images=found.images, discrepancy=found.discrepancy, discrepancy_p=found.discrepancy_p,
            confidence_p=found.confidence_p, changed=found.changed,
        )  # fmt: skip

    def _recalibrate(self, found: Drifts, kind: Kind, strength: float) -> None:
        """Add what recipes predict that are calibrated by training images with the same drift."""
        images = drifted(self.images, kind, strength, SEED)
        calibration = drifted(self.calibration, kind, strength, SEED + 1)
        there = {each.recipe for each in found.recalibrated if (each.kind, each.strength) == (kind, strength)}
        for name, predictor in self.predictors.items():
            if name == BASELINE or name in there or name in found.uncalibrated:
                continue
            built = self._build(name, self.folder / "recalibrated", calibration)
            if built.spec.files == predictor.artifact.spec.files:
                found.uncalibrated.append(name)
                continue
            outputs = self._outputs(self._load(built), images)
            classes = encoded(outputs[:, : len(built.spec.classes)].argmax(axis=1))
            found.recalibrated.append(Recalibrated(kind=kind, strength=strength, recipe=name, predicted=classes))

    def _outputs(self, predictor: Predictor, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits and embedding, float32 (N, C + D)."""

        def function(batch: Tensor) -> Tensor:
            return torch.from_numpy(predictor.outputs(batch))

        cores, what = threads(self.params.threads), f"predict {predictor.artifact.spec.recipe}"
        return map_batches(function, images, self.params.evaluate, predictor.device, cores, what)
