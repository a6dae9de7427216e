"""The recommended recipe and its numbers, as text for a terminal."""

from vitquant.analysis.findings import Recipe, Study
from vitquant.analysis.recommend import Recommendation
from vitquant.errors import printable
from vitquant.params import BASELINE
from vitquant.report.text import interval, shown, top1


def text(chosen: Recommendation, study: Study) -> str:
    """A line each for top-1, latency, memory and size; then what the reader should know."""
    name, recipe, budget, images = chosen.name, chosen.recipe, chosen.max_drop, study.facts.eval_images
    within = []
    if budget is not None:
        within.append(f"lose at most {budget:g} pp of {top1(study)}")
    if chosen.min_cosine is not None:
        within.append(f"keep a cosine of {chosen.min_cosine:g} to {BASELINE}'s embeddings at 99 of 100 images")
    lines = [
        f"{printable(name)}: the best {chosen.objective} of the recipes that {' and '.join(within)}",
        *_top1(recipe, top1(study)),
        *_cosine(recipe),
        *_latency(recipe, chosen.batch),
        *_footprint(recipe, study.baseline, chosen.batch),
        f"  brackets: 95 % intervals; {images} validation images",
    ]
    delta = recipe.top1_delta
    if name == BASELINE:
        lines.append(f"No quantized recipe within the budget has a better {chosen.objective}.")
    elif delta and budget is not None and delta.low < -budget:
        lines.append(
            f"Not certain: the interval reaches {delta.low:+.2f} pp, beyond the budget of {0 - budget:+g} pp; {images} "
            "images do not exclude a larger loss."
        )
    return "\n".join(lines)


def _top1(recipe: Recipe, what: str) -> list[str]:
    if not recipe.accuracy:
        return []
    value, delta = recipe.accuracy.top1, recipe.top1_delta
    beside = f", {delta.value:+.2f} pp {interval(delta, '+.2f')} to {BASELINE}" if delta else ""
    return [f"  top-1    {value.value:.2f} % {interval(value, '.2f')}{beside}{' (k-NN)' if what != 'top-1' else ''}"]


def _cosine(recipe: Recipe) -> list[str]:
    """Of the embeddings; of recipes that were measured before it was, and of the baseline, there is none."""
    if not recipe.accuracy or recipe.cosine is None:
        return []
    found = recipe.accuracy
    return [
        f"  cosine   {found.class_token_mean_cosine:.4f} on average, {recipe.cosine:.4f} at the 1st percentile, "
        f"{found.class_token_least_cosine:.4f} at least"
    ]


def _latency(recipe: Recipe, batch: int) -> list[str]:
    if batch not in recipe.speeds:
        return []
    speed = recipe.at(batch)
    lines = [f"  latency  {shown(speed.p50_ms, '.1f')} ms per batch of {batch}"]
    rivals = (("the fastest other recipe", speed.fastest_other), ("the best that does not quantize", speed.best_float))
    for what, rival in rivals:
        if rival:
            ratio = f"{rival.ratio.value:.2f} × {interval(rival.ratio, '.2f')}"
            lines.append(f"           {ratio} as fast as {printable(rival.recipe)}, {what}")
    if speed.speedup:
        ratio = f"{speed.speedup.value:.2f} × {interval(speed.speedup, '.2f')}"
        lines.append(f"           {ratio} as fast as {BASELINE}, PyTorch eager")
    return lines


def _footprint(recipe: Recipe, baseline: Recipe, batch: int) -> list[str]:
    ours, theirs = recipe.footprint, baseline.footprint
    if not ours:
        return []
    memory, size = f"  memory   {recipe.peak_mb(batch):.1f} MB at peak", f"  size     {ours.size_mb:.1f} MB"
    if theirs and recipe is not baseline:
        memory += f", {BASELINE} {baseline.peak_mb(batch):.1f}"
        size += f", {BASELINE} {theirs.size_mb:.1f}"
    return [memory, size]
