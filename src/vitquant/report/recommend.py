"""Which recipe to take: the best of those within an accuracy budget, from metrics.json alone."""

import math
from typing import Any, Literal

from vitquant.errors import VitquantError, printable
from vitquant.params import BASELINE
from vitquant.report.tables import batch_sizes

Objective = Literal["latency", "memory", "size"]


def recommend(metrics: dict[str, Any], max_drop: float, batch: int, objective: Objective) -> str:
    """The recipe that is best by `objective` among those that lose at most `max_drop`, and its numbers, as text.

    Args:
        metrics: the content of metrics.json.
        max_drop: top-1, in percentage points, that may be lost against FP32.
        batch: the batch size that latency is compared at: by the ratio to FP32 in the same round.

    Raises:
        VitquantError: a negative drop, a batch size that was not measured, no accuracy to judge by, or no recipe but
            FP32 within the budget.
    """
    if not max_drop >= 0:  # NaN too
        raise VitquantError(
            f"--max-drop: {max_drop:g} is no loss: give percentage points of top-1 to lose, such as 0.3"
        )
    recipes: dict[str, dict[str, Any]] = metrics["recipes"]
    sizes, baseline, images = batch_sizes(metrics), recipes[BASELINE], metrics["study"]["eval_images"]
    if batch not in sizes:
        measured = ", ".join(map(str, sizes))
        raise VitquantError(f"--batch: {batch} was not measured, {measured} were: add it to benchmark.batches")
    drops = {name: -recipe["top1_delta_pp"] for name, recipe in recipes.items() if "top1_delta_pp" in recipe}
    if not drops:
        reason = baseline.get("unavailable", {}).get("accuracy", "no recipe has a difference to FP32")
        raise VitquantError(f"accuracy was not measured, so that no budget can be kept: {reason}")
    within = [name for name, drop in drops.items() if drop <= max_drop]
    if not within:
        closest = min(drops, key=lambda name: drops[name])
        raise VitquantError(
            f"no recipe loses at most {max_drop:g} pp of top-1: stay with {BASELINE}; "
            f"the closest is {closest}, {-drops[closest]:+.2f} pp"
        )
    best = _best(recipes, within, batch, objective)
    return _text(best, recipes[best], baseline, images, max_drop, batch, objective)


def choose(metrics: dict[str, Any], max_drop: float, batch: int) -> str | None:
    """The fastest recipe at `batch` of those that lose at most `max_drop`; None where accuracy was not measured."""
    recipes = metrics["recipes"]
    if not any("top1_delta_pp" in recipe for recipe in recipes.values()):
        return None
    within = [name for name, recipe in recipes.items() if -recipe.get("top1_delta_pp", -math.inf) <= max_drop]
    return _best(recipes, within, batch, "latency")


def _best(recipes: dict[str, dict[str, Any]], names: list[str], batch: int, objective: Objective) -> str:
    costs = {name: _cost(name, recipes[name], batch, objective) for name in (BASELINE, *names)}
    return min((name for name in costs if costs[name] is not None), key=lambda name: costs[name] or 0)


def _cost(name: str, recipe: dict[str, Any], batch: int, objective: Objective) -> float | None:
    """What is to be small; None where it was not measured."""
    if objective == "latency":
        ratio = 1.0 if name == BASELINE else recipe.get(f"speedup_b{batch}_x")
        return 1 / ratio if ratio else None
    return recipe.get({"memory": "memory_peak_mb", "size": "size_mb"}[objective])


def _text(
    name: str,
    recipe: dict[str, Any],
    baseline: dict[str, Any],
    images: int,
    max_drop: float,
    batch: int,
    objective: Objective,
) -> str:
    lines = [f"{printable(name)}: the best {objective} of the recipes that lose at most {max_drop:g} pp of top-1"]
    top1, speed = "", ""
    if name != BASELINE:
        low, high = recipe["top1_delta_ci95_pp"]
        top1 = f", {recipe['top1_delta_pp']:+.2f} pp [{low:+.2f}, {high:+.2f}] to {BASELINE}"
    if f"speedup_b{batch}_x" in recipe:
        low, high = recipe[f"speedup_b{batch}_ci95_x"]
        speed = f", {recipe[f'speedup_b{batch}_x']:.2f} × [{low:.2f}, {high:.2f}] as fast as {BASELINE}"
    low, high = recipe["top1_ci95_pct"]
    lines.append(f"  top-1    {recipe['top1_pct']:.2f} % [{low:.2f}, {high:.2f}]{top1}")
    for label, key, unit, note in (
        ("latency", f"latency_b{batch}_ms_p50", f"ms per batch of {batch}", speed),
        ("memory", "memory_peak_mb", "MB at peak", ""),
        ("size", "size_mb", "MB", ""),
    ):
        if key in recipe:
            note = note or (f", {BASELINE} {baseline[key]:.1f}" if name != BASELINE else "")  # noqa: PLW2901
            lines.append(f"  {label:8} {recipe[key]:.1f} {unit}{note}")
    lines.append(f"  brackets: 95 % intervals; {images} validation images")
    if name == BASELINE:
        lines.append(f"No quantized recipe within the budget has a better {objective}.")
    elif recipe["top1_delta_ci95_pp"][0] < -max_drop:
        lines.append(
            f"Not certain: the interval reaches {recipe['top1_delta_ci95_pp'][0]:+.2f} pp, beyond the budget of "
            f"{-max_drop:+g} pp; {images} images do not exclude a larger loss."
        )
    return "\n".join(lines)
