"""The same recipe once more, calibrated by images that were served, and whether that is as good as before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitquant import cpu, files, recipes
from vitquant.analysis import statistics
from vitquant.analysis.findings import Estimate
from vitquant.artifact import SPEC_FILE, Artifact, Spec, open_artifact
from vitquant.calibration import MOST
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.parallel import choose_device, map_batches
from vitquant.params import Calibration, Evaluate, Recipe
from vitquant.results.hits import hits

FEWEST = 40  # images of a sample: of half as many, nothing can be told
Z_SQUARED = 3.8415  # of the interval, 95 %: n images without any difference show at most a loss of Z² / (n + Z²)
SEED = 0  # of the halves
BATCH = Evaluate(batch_size=1, cuda_batch_size=1, large_batch=1, workers=0)


@dataclass(frozen=True)
class Verdict:
    """Old and new over the same images."""

    what: str
    """The images."""
    images: int
    measure: str
    fp32: Estimate | None
    """Percent; None where the measure is agreement with it."""
    old: Estimate
    new: Estimate
    difference: Estimate
    """New less old, percentage points."""
    margin: float
    """Percentage points."""

    @property
    def not_inferior(self) -> bool:
        """Whether the new one's loss is shown to be below the margin, at 2.5 %, one-sided."""
        return self.difference.low > -self.margin

    def __str__(self) -> str:
        fp32 = f", fp32 {self.fp32.value:.2f} %" if self.fp32 else ""
        shown = "not inferior" if self.not_inferior else "NOT shown to be not inferior"
        gap = self.difference
        return (
            f"{self.what} ({self.images}): {self.measure} {self.old.value:.2f} % before, {self.new.value:.2f} % after"
            f"{fp32}: {gap.value:+.2f} pp [{gap.low:+.2f}, {gap.high:+.2f}]: {shown} at a margin of {self.margin:g} pp"
        )


def recalibrate(
    old: Path,
    fp32: Path,
    served: NDArray[np.uint8],
    out: Path,
    margin: float,
    prepared: Prepared | None = None,
    mix: float = 0.0,
    say: Callable[[object], None] = print,
) -> list[Verdict]:
    """Write the artifact `out` if it is not inferior to `old`, on the other half of the served images and the study's.

    Args:
        fp32: the artifact that `old` was made of.
        served: a sample of the images that were served, uint8 (N, side, side, 3), in any order.
        margin: the loss that would still be borne, percentage points.
        prepared: the study's data, whose validation images are to show no loss either.
        mix: the share of the calibration images that are the study's own.
        say: is told each verdict when it is known.

    Returns:
        The verdicts: of the served images, and of the study's where those are given.

    Raises:
        VitquantError: the recipe does not calibrate, the artifacts or data do not belong together, there are too few
            images, or the new artifact is not shown to be as good; then nothing was written.
        UnsupportedError: the recipe cannot run on this machine.
    """
    before, baseline = open_artifact(old), open_artifact(fp32)
    _check(before, baseline, served, prepared)
    _enough(len(served), margin)
    if out.exists():
        raise VitquantError(f"{out} exists: give --out a new folder, so that what was there before stays")
    order = np.random.default_rng(SEED).permutation(len(served))
    first, held = served[order[: len(served) // 2]], served[order[len(served) // 2 :]]
    images = _calibration(first, prepared, mix)
    with files.atomic(out) as partial:
        recipe = Recipe.model_validate({"method": before.spec.method, **before.spec.options})
        recipes.build(before.spec.recipe, recipe, fp32, partial, images)
        _note(partial, before, len(images), mix)
        verdicts = []
        for verdict in _verdicts((fp32, old, partial), held, prepared, margin):
            say(verdict)
            verdicts.append(verdict)
        if not all(verdict.not_inferior for verdict in verdicts):
            raise VitquantError(f"{out} was not written: {before.path} goes on")
    return verdicts


def _check(old: Artifact, fp32: Artifact, served: NDArray[np.uint8], prepared: Prepared | None) -> None:
    spec, source = old.spec, fp32.spec
    if spec.unavailable:
        raise UnsupportedError(f"{old.path}: {spec.unavailable}")
    if not spec.classes:
        raise VitquantError(f"{old.path} gives embeddings: recalibration compares classes")
    alike = all(getattr(spec, key) == getattr(source, key) for key in ("architecture", "classes", "preprocessing"))
    if not alike or not source.details.items() <= spec.details.items():
        raise VitquantError(f"{old.path} is of another model than {fp32.path}: give --fp32 the one that it was made of")
    if source.method != "fp32":
        raise VitquantError(f"{fp32.path} is no FP32 artifact, but {source.recipe}: give --fp32 models/baseline")
    spec.preprocessing.check(served, str(old.path))
    if prepared and (prepared.classes, prepared.preprocessing) != (spec.classes, spec.preprocessing):
        raise VitquantError(f"{prepared.path} has other classes or another preprocessing than {old.path}")


def _enough(images: int, margin: float) -> None:
    """See that the half that is held back could show a loss below the margin."""
    needed = max(FEWEST, 2 * int(Z_SQUARED * (100 / margin - 1)) + 1)
    if images < needed:
        raise VitquantError(
            f"the sample has {images} images, and {needed} are needed to show that a loss is below {margin:g} pp: "
            "serve more of them first, or give a larger --margin"
        )


def _calibration(served: NDArray[np.uint8], prepared: Prepared | None, mix: float) -> NDArray[np.uint8]:
    """As many images as the study has, or as there are: of the study's own that share, and the rest served ones."""
    total = min(MOST, len(served))
    own = round(mix * total)
    if not own:
        return served[:total]
    if not prepared:
        raise VitquantError("--mix takes the study's own calibration images: give --validate, its data")
    train = len(prepared.images("train"))
    study = prepared.calibration(Calibration(images=min(MOST, train), seed=SEED))[:own]
    return np.concatenate([served[: total - len(study)], study])


def _note(directory: Path, old: Artifact, images: int, mix: float) -> None:
    """Say in recipe.json what it was calibrated by.

    Raises:
        UnsupportedError: it could not be built.
        VitquantError: other calibration images have changed nothing.
    """
    spec = Spec.model_validate(files.read_json(directory / SPEC_FILE))
    if spec.unavailable:
        raise UnsupportedError(spec.unavailable)
    if spec.files == old.spec.files:
        raise VitquantError(f"{old.path}: {spec.recipe} does not calibrate: there is nothing to do")
    details = {**spec.details, "recalibrated": {"images": images, "mix": mix, "instead_of": old.sha256}}
    files.write_json(directory / SPEC_FILE, spec.model_copy(update={"details": details}).model_dump())


def _verdicts(
    paths: tuple[Path, Path, Path], held: NDArray[np.uint8], prepared: Prepared | None, margin: float
) -> Iterator[Verdict]:
    """Of FP32, old and new: agreement on the served images that were held back, then accuracy on the study's."""
    named = dict(zip(("fp32", "before", "after"), paths, strict=True))
    baseline, old, new = (_logits(path, held, name).argmax(axis=1) for name, path in named.items())
    yield _verdict("served images held back", "agreement with fp32", None, old == baseline, new == baseline, margin)
    if prepared:
        labels = prepared.labels("val")
        images = prepared.images("val")
        right, before, after = (hits(_logits(path, images, name), labels, 1) for name, path in named.items())
        yield _verdict("the study's validation images", "top-1", right, before, after, margin)


def _verdict(
    what: str,
    measure: str,
    fp32: NDArray[np.bool_] | None,
    old: NDArray[np.bool_],
    new: NDArray[np.bool_],
    margin: float,
) -> Verdict:
    return Verdict(
        what=what,
        images=len(old),
        measure=measure,
        fp32=None if fp32 is None else statistics.proportion(fp32),
        old=statistics.proportion(old),
        new=statistics.proportion(new),
        difference=statistics.paired_difference(new, old),
        margin=margin,
    )


def _logits(path: Path, images: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """Of images one at a time, as a server may be asked, float32 (N, C); progress is shown under the name."""
    predictor = recipes.load(path, choose_device("auto"))

    def function(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(predictor(batch))

    return map_batches(function, images, BATCH, predictor.device, cpu.cores(), name)
