"""Which recipe to take: the best of those within an accuracy budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vitquant.analysis.findings import Recipe, Study
from vitquant.errors import VitquantError
from vitquant.params import BASELINE, SEED_RECIPE

Objective = Literal["latency", "memory", "size"]
BUDGET = 0.3  # pp of top-1: "within 0.3 %", the seed report's own bound


@dataclass(frozen=True)
class Recommendation:
    """The recipe to take, and what it was chosen by."""

    name: str
    recipe: Recipe
    max_drop: float | None
    batch: int
    objective: Objective
    min_cosine: float | None = None


def recommend(
    study: Study, max_drop: float | None, batch: int, objective: Objective, min_cosine: float | None = None
) -> Recommendation:
    """The recipe that is best by `objective` among those within a budget, or two.

    Args:
        max_drop: top-1, in percentage points, that may be lost against FP32; of embeddings that of the neighbours.
        batch: the batch size that latency is compared at: by the ratio to FP32 in the same round.
        min_cosine: that the embeddings of 99 of 100 images have to FP32's.

    Raises:
        VitquantError: no budget, or one that is none, a batch size that was not measured, no accuracy or cosine to
            judge by, or no recipe but FP32 within the budget.
    """
    if max_drop is None and min_cosine is None:
        raise VitquantError(
            "give --max-drop, the top-1 that may be lost, or --min-cosine, to FP32's embeddings, or both"
        )
    if min_cosine is not None and not -1 <= min_cosine <= 1:
        raise VitquantError(f"--min-cosine: {min_cosine:g} is no cosine: give one up to 1, such as 0.99")
    if max_drop is not None and not 0 <= max_drop < math.inf:  # NaN neither
        raise VitquantError(
            f"--max-drop: {max_drop:g} is no loss: give percentage points of top-1 to lose, such as 0.3"
        )
    if batch not in study.sizes:
        measured = ", ".join(map(str, study.sizes))
        raise VitquantError(f"--batch: {batch} was not measured, {measured} were: add it to benchmark.batches")
    within = list(study.recipes)
    if max_drop is not None:
        within = _losing_at_most(max_drop, study)
    if min_cosine is not None:
        within = _as_near_as(min_cosine, study, within)
    best = _best(study, within, batch, objective)
    return Recommendation(best, study.recipes[best], max_drop, batch, objective, min_cosine)


def _losing_at_most(max_drop: float, study: Study) -> list[str]:
    """The recipes within the budget of top-1, at least one."""
    drops = _drops(study)
    if not drops:
        reason = study.baseline.unavailable.get("accuracy", "no recipe has a difference to FP32")
        raise VitquantError(f"accuracy was not measured, so that no budget can be kept: {reason}")
    within = [name for name, drop in drops.items() if drop <= max_drop]
    if not within:
        closest = min(drops, key=lambda name: drops[name])
        raise VitquantError(
            f"no recipe loses at most {max_drop:g} pp of top-1: stay with {BASELINE}; "
            f"the closest is {closest}, {-drops[closest]:+.2f} pp"
        )
    return within


def _as_near_as(min_cosine: float, study: Study, names: Sequence[str]) -> list[str]:
    """Those of some recipes whose embeddings are near enough to FP32's, at least one."""
    cosines = {name: cosine for name in names if (cosine := study.recipes[name].cosine) is not None}
    if not cosines:
        raise VitquantError("no cosine to FP32's embeddings was measured: run `dvc repro`")
    within = [name for name, cosine in cosines.items() if cosine >= min_cosine]
    if not within:
        closest = max(cosines, key=lambda name: cosines[name])
        raise VitquantError(
            f"no recipe has a cosine of {min_cosine:g} at 99 of 100 images: stay with {BASELINE}; the closest is "
            f"{closest}, {cosines[closest]:.4f}"
        )
    return within


def recommended(study: Study) -> str | None:
    """The fastest recipe within BUDGET at the first batch size; None where accuracy was not measured."""
    drops = _drops(study)
    within = [name for name, drop in drops.items() if drop <= BUDGET]
    return _best(study, within, study.sizes[0], "latency") if drops else None


def subject(study: Study) -> str | None:
    """The quantized recipe that the answer is about: the recommended one, else the fastest; None without any."""
    first, chosen = study.sizes[0], recommended(study)
    if chosen and study.recipes[chosen].traits.quantized:
        return chosen
    speeds = {}
    for name, recipe in study.recipes.items():
        if recipe.traits.quantized:
            ratio = recipe.speedup(first)
            speeds[name] = ratio.value if ratio else 0.0
    return max(speeds, key=lambda name: speeds[name], default=None)


def marked(study: Study) -> list[str]:
    """The quantized recipes that are looked into: the answer's, and the seed report's."""
    names = (subject(study), SEED_RECIPE)
    return list(dict.fromkeys(name for name in names if name and name in study.recipes))


def _drops(study: Study) -> dict[str, float]:
    """Top-1 lost against FP32, pp, of the recipes that have a difference."""
    return {name: -recipe.top1_delta.value for name, recipe in study.recipes.items() if recipe.top1_delta}


def _best(study: Study, names: list[str], batch: int, objective: Objective) -> str:
    costs = {name: _cost(name, study.recipes[name], batch, objective) for name in (BASELINE, *names)}
    return min(costs, key=lambda name: costs[name])


def _cost(name: str, recipe: Recipe, batch: int, objective: Objective) -> float:
    """What is to be small; infinite where it was not measured."""
    if objective == "latency":
        ratio = recipe.speedup(batch)
        return 1.0 if name == BASELINE else 1 / ratio.value if ratio else math.inf
    if not recipe.footprint:
        return math.inf
    return recipe.peak_mb(batch) if objective == "memory" else recipe.footprint.size_mb
