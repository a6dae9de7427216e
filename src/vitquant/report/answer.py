"""The answer in five lines: sentences that are made from the numbers, so that they cannot contradict them."""

from typing import Any

from vitquant import traits
from vitquant.params import BASELINE, SEED_RECIPE
from vitquant.report import gpu_section
from vitquant.report.recommend import choose
from vitquant.report.tables import batch_sizes
from vitquant.report.text import (
    bracket,
    code,
    escape,
    estimate,
    faster_or_slower,
    listing,
    loss_or_gain,
    relative,
    value,
)

BUDGET = 0.3  # pp of top-1: "within 0.3 %", the seed report's own bound
Recipes = dict[str, dict[str, Any]]


def subject(metrics: dict[str, Any]) -> str | None:
    """The quantized recipe that the answer is about: the recommended one, else the fastest; None without any."""
    first, chosen = batch_sizes(metrics)[0], recommended(metrics)
    if chosen and traits.of(metrics["recipes"][chosen]).quantized:
        return chosen
    speeds = {name: recipe.get(f"speedup_b{first}_x", 0.0) for name, recipe in _quantized(metrics).items()}
    return max(speeds, key=lambda name: speeds[name], default=None)


def recommended(metrics: dict[str, Any]) -> str | None:
    """The fastest recipe within BUDGET at the first batch size; None where accuracy was not measured."""
    return choose(metrics, BUDGET, batch_sizes(metrics)[0])


def marked(metrics: dict[str, Any]) -> list[str]:
    """The quantized recipes that are looked into: the answer's, and the seed report's."""
    names = (subject(metrics), SEED_RECIPE)
    return list(dict.fromkeys(name for name in names if name and name in metrics["recipes"]))


def answer(metrics: dict[str, Any], cuda: dict[str, Any]) -> str:
    """Five Markdown list items: which recipe, speed, accuracy, memory and size, and the other recipes.

    Args:
        cuda: what `gpu_section.read` gives.
    """
    name = subject(metrics)
    if name is None:
        return "- The study has no quantized recipe: it measures `fp32` and its engines alone."
    recipe, baseline = metrics["recipes"][name], metrics["recipes"][BASELINE]
    lines = [
        f"**Use** {_use(metrics)}",
        f"**Speed:** {_speed(name, recipe, baseline, batch_sizes(metrics))} "
        + gpu_section.answer(cuda, metrics["study"]["name"]),
        f"**Accuracy:** {_accuracy(name, recipe, metrics['study']['eval_images'])}",
        f"**Memory and size:** {_footprint(name, recipe, baseline)}",
        f"**All quantized recipes:** {_others(metrics)}",
    ]
    return "\n".join(f"- {line.strip()}" for line in lines)


def _use(metrics: dict[str, Any]) -> str:
    first, chosen = batch_sizes(metrics)[0], recommended(metrics)
    if chosen is None:
        return "no recipe on the strength of this study: accuracy was not measured, so that no loss can be ruled out."
    if chosen == BASELINE:
        return f"{code(BASELINE)}: no recipe that loses at most {BUDGET:g} pp of top-1 is faster at batch {first}."
    rule = f"{code(chosen)}, the fastest at batch {first} of the recipes that lose at most {BUDGET:g} pp of top-1"
    if not traits.of(metrics["recipes"][chosen]).quantized:
        rule += "; it does not quantize"
    low, _ = metrics["recipes"][chosen]["top1_delta_ci95_pp"]
    if low < -BUDGET:
        images = metrics["study"]["eval_images"]
        return f"{rule}. {images:,} images do not exclude a loss of up to {-low:.2f} pp."
    return f"{rule}; the whole interval is within that bound."


def _speed(name: str, recipe: dict[str, Any], baseline: dict[str, Any], sizes: list[int]) -> str:
    parts = []
    for size in dict.fromkeys((sizes[0], sizes[-1])):
        key = f"speedup_b{size}_x"
        if key in recipe:
            low, high = recipe[f"speedup_b{size}_ci95_x"]
            times = (
                f"{recipe[f'latency_b{size}_ms_p50']:.1f} ms instead of {baseline[f'latency_b{size}_ms_p50']:.1f} ms"
            )
            verdict = faster_or_slower(low, high)
            parts.append(
                f"{estimate(recipe, key, '.2f')} × the speed of {code(BASELINE)} at batch {size} ({verdict}; {times})"
            )
    if not parts:
        return f"{code(name)} was not timed: see below."
    return f"{code(name)} has {listing(parts)}{_against_bfloat(recipe, sizes[0])}."


def _against_bfloat(recipe: dict[str, Any], size: int) -> str:
    key = f"vs_bf16_compiled_b{size}_x"
    if key not in recipe:
        return ""
    verdict = faster_or_slower(*recipe[f"vs_bf16_compiled_b{size}_ci95_x"])
    ratio = estimate(recipe, key, ".2f")
    return f"; against compiled BF16, which does not quantize, {ratio} × at batch {size} ({verdict})"


def _accuracy(name: str, recipe: dict[str, Any], images: int) -> str:
    if "top1_delta_pp" not in recipe:
        return f"{code(name)}: not measured, {escape(recipe.get('unavailable', {}).get('accuracy', 'see below'))}."
    low, high = recipe["top1_delta_ci95_pp"]
    return (
        f"{code(name)} differs in top-1 by {estimate(recipe, 'top1_delta_pp', '+.2f')} pp: {loss_or_gain(low, high)} "
        f"over the same {images:,} images; it predicts the same class on {value(recipe, 'agreement_pct', '.2f')} %."
    )


def _footprint(name: str, recipe: dict[str, Any], baseline: dict[str, Any]) -> str:
    if "size_mb" not in recipe:
        return f"{code(name)} was not measured: see below."
    peak, before = recipe["memory_peak_mb"], baseline["memory_peak_mb"]
    return (
        f"{code(name)} ships {recipe['size_mb']:.1f} MB for {baseline['size_mb']:.1f} MB "
        f"({relative(recipe['size_reduction_pct'])}) and takes {peak:.0f} MB at its peak for {before:.0f} MB "
        f"({relative(100 * (1 - peak / before))}; one measurement, no interval)."
    )


def _others(metrics: dict[str, Any]) -> str:
    """How many lose, gain and run faster beyond their intervals."""
    recipes, first = _quantized(metrics), batch_sizes(metrics)[0]
    judged = {name: loss_or_gain(*r["top1_delta_ci95_pp"]) for name, r in recipes.items() if "top1_delta_pp" in r}
    speeds = [r[f"speedup_b{first}_ci95_x"] for r in recipes.values() if f"speedup_b{first}_x" in r]
    parts = []
    for verdict, words in (("a loss", "lose top-1 beyond the interval"), ("a gain", "gain it")):
        named = [
            f"{code(name)} {bracket(recipes[name]['top1_delta_ci95_pp'], '+.2f')} pp"
            for name, shown in judged.items()
            if shown == verdict
        ]
        parts.append(f"{len(named)} of {len(judged)} {words}" + (f" ({', '.join(named)})" if named else ""))
    if not judged:
        parts = ["accuracy was not measured"]
    if speeds:
        faster = sum(faster_or_slower(*interval) == "faster" for interval in speeds)
        parts.append(f"{faster} of {len(speeds)} are faster than {code(BASELINE)} at batch {first}")
    return f"{'; '.join(parts)}.{_seed(recipes, first)}"


def _seed(recipes: Recipes, size: int) -> str:
    recipe = recipes.get(SEED_RECIPE, {})
    parts = []
    if "top1_delta_pp" in recipe:
        verdict = loss_or_gain(*recipe["top1_delta_ci95_pp"])
        parts.append(f"{estimate(recipe, 'top1_delta_pp', '+.2f')} pp of top-1 ({verdict})")
    if f"speedup_b{size}_x" in recipe:
        parts.append(f"{estimate(recipe, f'speedup_b{size}_x', '.2f')} × the speed")
    return f" The seed report's recipe, {code(SEED_RECIPE)}: {', '.join(parts)}." if parts else ""


def _quantized(metrics: dict[str, Any]) -> Recipes:
    return {name: recipe for name, recipe in metrics["recipes"].items() if traits.of(recipe).quantized}
