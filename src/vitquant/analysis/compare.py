"""Two runs' findings side by side: what changed, and what exceeds its interval."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vitquant.analysis.findings import Estimate, Footprint, Recipe, Study
from vitquant.analysis.load import MACHINE
from vitquant.params import BASELINE

Beyond = Literal["yes", "no", "yes: exact", "yes: ranges apart", "no interval"]


@dataclass(frozen=True)
class Change:
    """One value that both have."""

    recipe: str
    what: str
    before: float
    after: float
    interval: tuple[float, float] | None
    """Of the change, 95 %: of after - before, or of after / before where it is a ratio."""
    is_ratio: bool
    beyond: Beyond
    """Whether it exceeds its interval."""

    @property
    def change(self) -> float:
        """After - before, or after / before where it is a ratio."""
        return self.after / self.before if self.is_ratio else self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """All that both have, and what only one has."""

    changes: list[Change]
    only_before: list[str]
    only_after: list[str]
    other_study: dict[str, tuple[object, object]]
    """Facts that differ, before and after."""
    other_machine: dict[str, tuple[object, object]]
    other_method: bool
    """Whether one was timed in one launch, whose interval holds less, with memory counted otherwise."""


def compare(before: Study, after: Study) -> Comparison:
    """Compare two studies, recipe by recipe."""
    other_method = (len(before.conditions) > 1) != (len(after.conditions) > 1)
    both = [name for name in before.recipes if name in after.recipes]
    return Comparison(
        changes=[change for name in both for change in _changes(name, before, after, other_method)],
        only_before=[name for name in before.recipes if name not in after.recipes],
        only_after=[name for name in after.recipes if name not in before.recipes],
        other_study=_differing(before.facts, after.facts, type(before.facts).model_fields),
        other_machine=_differing(before.environment, after.environment, (*MACHINE, "threads")),
        other_method=other_method,
    )


def _differing(before: object, after: object, keys: object) -> dict[str, tuple[object, object]]:
    pairs = {key: (getattr(before, key), getattr(after, key)) for key in keys}  # type: ignore[attr-defined]
    return {key: pair for key, pair in pairs.items() if None not in pair and pair[0] != pair[1]}


def _changes(name: str, before: Study, after: Study, other_method: bool) -> Iterator[Change]:
    old, new = before.recipes[name], after.recipes[name]
    if old.footprint and new.footprint:
        memory = old.footprint.memory_peak_mb, new.footprint.memory_peak_mb
        yield _plain(
            name, "peak memory, MB", *memory, "no interval" if other_method else _apart(old.footprint, new.footprint)
        )
        yield _plain(name, "size, MB", old.footprint.size_mb, new.footprint.size_mb, "yes: exact")
    estimates = {f"speed-up b{size}, ×": (old.speedup(size), new.speedup(size)) for size in after.sizes}
    if name == BASELINE:
        estimates["top-1, %"] = _top1(old), _top1(new)
    estimates["Δ top-1, pp"] = old.top1_delta, new.top1_delta
    for what, (ours, theirs) in estimates.items():
        if ours and theirs:
            yield _estimates(name, what, ours, theirs)


def _apart(before: Footprint, after: Footprint) -> Beyond:
    """Whether the ranges over launches lie apart: of five and five alike they do once in 126 times."""
    old, new = before.memory_peak_range_mb, after.memory_peak_range_mb
    if not old or not new:
        return "no interval"
    return "yes: ranges apart" if old[1] < new[0] or new[1] < old[0] else "no"


def _top1(recipe: Recipe) -> Estimate | None:
    return recipe.accuracy.top1 if recipe.accuracy else None


def _plain(name: str, what: str, before: float, after: float, beyond: Beyond) -> Change:
    return Change(name, what, before, after, None, False, "no" if before == after else beyond)


def _estimates(name: str, what: str, before: Estimate, after: Estimate) -> Change:
    is_ratio = before.unit == "×"
    interval = ratio_interval if is_ratio else difference_interval
    low, high = interval(_numbers(before), _numbers(after))
    nothing = 1.0 if is_ratio else 0.0
    beyond: Beyond = "no" if before.value == after.value or low <= nothing <= high else "yes"
    return Change(name, what, before.value, after.value, (low, high), is_ratio, beyond)


Numbers = tuple[float, float, float]


def _numbers(estimate: Estimate) -> Numbers:
    return estimate.value, estimate.low, estimate.high


def difference_interval(before: Numbers, after: Numbers) -> tuple[float, float]:
    """The interval of after - before, from their values and intervals: MOVER (Zou & Donner 2008, equation 2)."""
    value = after[0] - before[0]
    below = math.hypot(after[0] - after[1], before[2] - before[0])
    above = math.hypot(after[2] - after[0], before[0] - before[1])
    return value - below, value + above


def ratio_interval(before: Numbers, after: Numbers) -> tuple[float, float]:
    """The interval of after / before: the same on logarithms."""
    (b, b_low, b_high), (a, a_low, a_high) = (map(math.log, each) for each in (before, after))
    low, high = difference_interval((b, b_low, b_high), (a, a_low, a_high))
    return math.exp(low), math.exp(high)
