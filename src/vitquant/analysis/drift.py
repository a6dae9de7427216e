"""What drift of the images costs: the model by itself, and its quantization; and what recalibration wins back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vitquant.analysis import statistics
from vitquant.analysis.findings import Estimate, Study
from vitquant.analysis.quantities import quote
from vitquant.monitoring.sequential import Watch
from vitquant.params import BASELINE, Params
from vitquant.results import form, outliers
from vitquant.results.drift import FILE, Drifts, Inputs, Kind, decoded

LEVEL = 0.05  # of all comparisons of recalibration together
MARGIN = 2.0  # pp: a gain that would be worth it; what `vitquant recalibrate` bears as a loss by default
MEND = "delete it, and run `make drift`"


@dataclass(frozen=True)
class Quantized:
    """A recipe on drifted images, beside FP32 on the same ones."""

    loss: Estimate
    """In top-1, less FP32's, pp: quantization's own."""
    agreement: Estimate
    """With FP32, %."""
    bound: float | None
    """The share of images of another class that is still right, as `vitquant serve --recommended` has it."""
    alarm: int | None
    """At which image of the stream it is raised; None for not at all."""


@dataclass(frozen=True)
class Condition:
    """One drift."""

    kind: Kind
    strength: float
    fp32: Estimate
    """Top-1, %."""
    own: Estimate
    """FP32's top-1 less that on the images as they are, pp: the model's own loss."""
    inputs: Inputs | None
    recipes: dict[str, Quantized]


@dataclass(frozen=True)
class Again:
    """A recipe calibrated by images with a drift, on others with the same."""

    kind: Kind
    recipe: str
    before: Estimate
    """Top-1 less FP32's, pp, as the study calibrates."""
    won: Estimate
    """In top-1, pp, by the other calibration."""
    p: float
    """McNemar's, corrected by Holm's method for all that were calibrated again."""
    agreement: tuple[Estimate, Estimate]
    """With FP32, before and after, %."""
    gained: NDArray[np.int64]
    """Of each image, (N,): 1 where only the new one is right, -1 where only the old."""

    @property
    def shown(self) -> bool:
        """Whether there is a difference, by that."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Gain:
    """What recalibration does for a recipe."""

    recipe: str
    overall: Estimate
    """In top-1, the mean over all kinds, pp, with Student's t interval over images."""
    won: list[Again]
    """Where it is shown to win."""
    lost: list[Again]
    """Where it is shown to lose."""

    def __str__(self) -> str:
        """In words, the recipe in backticks."""
        each = [f"under {one.kind} {_brackets(one.won)}" for one in (*self.won, *self.lost)]
        shown = ", ".join(each) or "no difference is shown under any"
        return f"`{quote(self.recipe)}` wins back {_brackets(self.overall)} over all kinds: {shown}"


def _brackets(estimate: Estimate) -> str:
    return f"{estimate.value:+.1f} [{estimate.low:+.1f}, {estimate.high:+.1f}] pp"


def disagreements(study: Study) -> dict[str, float]:
    """The share of images that each recipe may give another class than FP32: the end of its interval (Wilson's, 95 %).

    The study's agreement is an estimate itself, and so its lower end counts.
    """
    total, found = study.facts.eval_images, {}
    for name, recipe in study.recipes.items():
        agreement = recipe.accuracy.agreement_pct if recipe.accuracy else None
        if agreement is not None and name != BASELINE:
            same = np.arange(total) < round(agreement / 100 * total)
            found[name] = 1 - statistics.proportion(same).low / 100
    return found


def conditions(measured: Drifts, bounds: Mapping[str, float]) -> list[Condition]:
    """Of every row, in their order.

    Args:
        bounds: what `disagreements` gives.
    """
    labels = np.array(measured.labels)
    clean = decoded(measured.rows[0].predicted[BASELINE]) == labels
    found = []
    for row in measured.rows:
        fp32 = decoded(row.predicted[BASELINE])
        right, recipes = fp32 == labels, {}
        for name, text in row.predicted.items():
            if name != BASELINE:
                classes, bound = decoded(text), bounds.get(name)
                watch = Watch(bound=bound)
                for differs in (classes != fp32).tolist():
                    watch.add(differs)
                recipes[name] = Quantized(
                    loss=statistics.paired_difference(classes == labels, right),
                    agreement=statistics.proportion(classes == fp32),
                    bound=bound,
                    alarm=watch.alarm,
                )
        own = statistics.paired_difference(right, clean)
        found.append(Condition(row.kind, row.strength, statistics.proportion(right), own, row.inputs, recipes))
    return found


def again(measured: Drifts) -> list[Again]:
    """Of every recipe that was calibrated again, by recipe."""
    labels = np.array(measured.labels)
    rows = {(row.kind, row.strength): row.predicted for row in measured.rows}
    found, order = [], list(measured.artifacts)
    each = sorted(measured.recalibrated, key=lambda one: order.index(one.recipe))
    tests: list[float] = []
    for one in each:
        row = rows[one.kind, one.strength]
        fp32, old, new = (decoded(text) for text in (row[BASELINE], row[one.recipe], one.predicted))
        before, after = old == labels, new == labels
        tests.append(statistics.mcnemar_p(int((after & ~before).sum()), int((before & ~after).sum())))
        agreement = statistics.proportion(old == fp32), statistics.proportion(new == fp32)
        loss = statistics.paired_difference(before, fp32 == labels)
        won = statistics.paired_difference(after, before)
        found.append((one.kind, one.recipe, loss, won, agreement, after.astype(int) - before))
    corrected = statistics.holm(tests)
    return [
        Again(kind, recipe, before, won, p, agreement, gained)
        for (kind, recipe, before, won, agreement, gained), p in zip(found, corrected, strict=True)
    ]


def gains(found: Sequence[Again]) -> list[Gain]:
    """Of every recipe that was calibrated again."""
    told = []
    for name in dict.fromkeys(each.recipe for each in found):
        own = [each for each in found if each.recipe == name]
        won = [each for each in own if each.shown and each.won.value > 0]
        lost = [each for each in own if each.shown and each.won.value < 0]
        told.append(Gain(name, _overall(np.stack([each.gained for each in own])), won, lost))
    return told


def _overall(gained: NDArray[np.int64]) -> Estimate:
    """The mean over kinds and images of (kinds, N); what one image has of all kinds is not independent."""
    images = gained.mean(axis=0)
    if not np.ptp(images):  # no spread to tell an interval by: that of one kind is wider than all together have
        return statistics.paired_difference(images > 0, images < 0)
    interval = stats.ttest_1samp(images, 0).confidence_interval(statistics.LEVEL)
    low, high = 100 * float(interval.low), 100 * float(interval.high)
    return Estimate(value=100 * float(images.mean()), low=low, high=high, unit="pp")


def read(folder: Path, params: Params) -> Drifts | None:
    """What drift.json in the folder says, where it is of this study.

    Raises:
        VitquantError: it cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        return None
    measured = form.read(file, Drifts, MEND)
    ours = params.recipes.keys() >= set(measured.artifacts) and measured.rows
    return measured if ours and measured.inputs == outliers.inputs(params, measured.artifacts) else None
