"""How far a recipe's difference in top-1 moves with what is drawn: the calibration images, the probe, the split."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitquant.analysis.findings import Estimate, Study
from vitquant.analysis.load import Results
from vitquant.analysis.recommend import BUDGET, marked
from vitquant.params import BASELINE, Params
from vitquant.results import draws, form, predictions
from vitquant.results.draws import Draws, Kind, Row

Z = 1.96
TWO = 2  # draws, the fewest that differ


@dataclass(frozen=True)
class Spread:
    """A recipe's differences in top-1 to FP32 of the same draw, pp, over the draws of a kind."""

    recipe: str
    kind: Kind
    deltas: list[float]

    @property
    def mean(self) -> float:
        """Of the differences."""
        return statistics.fmean(self.deltas)

    @property
    def sd(self) -> float:
        """Their standard deviation, with n - 1."""
        return statistics.stdev(self.deltas)

    def widening(self, studied: Estimate) -> float:
        """By how many percent the interval of the study's own difference, h on either side, would grow with the draw.

        Two independent errors: √(h² + (1.96 SD)²) / h - 1.
        """
        half = (studied.high - studied.low) / 2
        return 100 * (math.hypot(half, Z * self.sd) / half - 1)


def subjects(study: Study) -> list[str]:
    """The recipes whose draws matter: the answer's, the seed report's, and the fastest other quantized ones.

    Those are the fastest at the first batch size, and the fastest of those that lose at most BUDGET.
    """
    names = marked(study)
    speeds = {
        name: ratio.value
        for name, recipe in study.recipes.items()
        if recipe.traits.quantized
        and recipe.top1_delta
        and name not in names
        and (ratio := recipe.speedup(study.sizes[0]))
    }
    within = [name for name in speeds if (delta := study.recipes[name].top1_delta) and delta.value >= -BUDGET]
    for rivals in (list(speeds), within):
        names += [max(rivals, key=speeds.__getitem__)] if rivals else []
    return [name for name in dict.fromkeys(names) if study.recipes[name].top1_delta]


def spreads(rows: Iterable[Row]) -> list[Spread]:
    """Of each recipe and kind of draw, in the rows' order, where there are two draws at least."""
    found: dict[tuple[str, Kind], list[float]] = {}
    for row in rows:
        found.setdefault((row.recipe, row.kind), []).append(100 * (row.gained - row.lost) / row.images)
    return [Spread(*key, deltas) for key, deltas in sorted(found.items()) if len(deltas) >= TWO]


def read(folder: Path, params: Params, results: Results) -> list[Spread]:
    """What draws.json in the folder says of this study's own recipes; nothing where it is of another study.

    Raises:
        VitquantError: it cannot be read.
    """
    file = folder / draws.FILE
    if not file.exists():
        return []
    measured = form.read(file, Draws, "delete it, and run `make draws`")
    fp32 = results.evidence[BASELINE].logits
    if measured.study != results.facts or fp32 is None:
        return []
    inputs = {
        name: draws.inputs(params, name, predictions.digest(evidence.logits), predictions.digest(fp32))
        for name, evidence in results.evidence.items()
        if evidence.logits is not None
    }
    images = results.facts.eval_images
    return spreads(
        row
        for row in measured.rows
        if inputs.get(row.recipe) == row.inputs and (row.kind == "split" or row.images == images)
    )
