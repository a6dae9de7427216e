"""The answer in five lines: sentences that are made from the numbers, so that they cannot contradict them."""

from collections.abc import Mapping

from vitquant.analysis.findings import Accuracy, Findings, Recipe, Rival, Study
from vitquant.analysis.recommend import BUDGET, recommended, subject
from vitquant.analysis.verdicts import faster_or_slower, loss_or_gain, non_inferiority
from vitquant.params import BASELINE, SEED_RECIPE
from vitquant.report import gpu_section
from vitquant.report.text import code, escape, interval, listing, relative, shown, top1

ALPHA = 0.05


def answer(findings: Findings) -> str:
    """Five Markdown list items: which recipe, speed, accuracy, memory and size, and the other recipes."""
    study = findings.study
    name = subject(study)
    if name is None:
        return "- The study has no quantized recipe: it measures `fp32` and its engines alone."
    lines = [
        f"**Use** {_use(study)}",
        f"**Speed:** {_speed(name, study)} {gpu_section.answer(findings)}",
        f"**Accuracy:** {_accuracy(name, study)}",
        f"**Memory and size:** {_footprint(name, study)}",
        f"**All quantized recipes:** {_others(study)}",
    ]
    return "\n".join(f"- {line.strip()}" for line in lines)


def _use(study: Study) -> str:
    first, chosen = study.sizes[0], recommended(study)
    if chosen is None:
        return "no recipe on the strength of this study: accuracy was not measured, so that no loss can be ruled out."
    delta = study.recipes[chosen].top1_delta
    if chosen == BASELINE or delta is None:
        return (
            f"{code(BASELINE)}: no recipe that loses at most {BUDGET:g} pp of {top1(study)} is faster at batch {first}."
        )
    rule = (
        f"{code(chosen)}, the fastest at batch {first} of the recipes that lose at most {BUDGET:g} pp of {top1(study)}"
    )
    if delta.low < -BUDGET:
        rule += f". {study.facts.eval_images:,} images do not exclude a loss of up to {-delta.low:.2f} pp."
    else:
        rule += "; its 95 % interval lies within that bound."
    if study.recipes[chosen].traits.quantized:
        return rule
    return f"{rule} It does not quantize: the next lines are of {code(subject(study))}, the fastest that does."


def _speed(name: str, study: Study) -> str:
    """Against the fastest other recipe and the best floating-point one; then where people start, eager FP32."""
    recipe = study.recipes[name]
    sizes = [size for size in study.sizes if size in recipe.speeds]
    others = {size: rival for size in sizes if (rival := recipe.at(size).fastest_other)}
    floats = {size: rival for size in sizes if (rival := recipe.at(size).best_float)}
    start = [
        f"{shown(ratio, '.2f')} × at batch {size} ({recipe.at(size).p50_ms:.1f} ms instead of "
        f"{study.baseline.at(size).p50_ms:.1f} ms)"
        for size in sizes
        if (ratio := recipe.speedup(size))
    ]
    if not (others and floats and start):
        return f"{code(name)} was not timed: see below."
    return (
        f"of {code(name)} {_against(others, 'the fastest other recipe')}; "
        f"{_against(floats, 'the best that does not quantize')}; "
        f"against {code(BASELINE)}, PyTorch eager, where people start, {listing(start)}."
    )


def _against(rivals: Mapping[int, Rival], what: str) -> str:
    """Ratios by batch size and what they show; a rival that is the same at all of them is named once."""
    names = {code(rival.recipe) for rival in rivals.values()}
    ratios = [
        f"{shown(rival.ratio, '.2f')} × at batch {size} ({'' if len(names) == 1 else f'{code(rival.recipe)}: '}"
        f"{faster_or_slower(rival.ratio)})"
        for size, rival in rivals.items()
    ]
    return f"against {f'{names.pop()}, {what},' if len(names) == 1 else what} {listing(ratios)}"


def _accuracy(name: str, study: Study) -> str:
    recipe = study.recipes[name]
    if not recipe.accuracy or not recipe.top1_delta:
        return f"{code(name)}: not measured, {escape(recipe.unavailable.get('accuracy', 'see below'))}."
    delta = recipe.top1_delta
    return (
        f"{_embedding(name, recipe.accuracy) if study.facts.embedding else ''}"
        f"{code(name)} differs in {top1(study)} by {shown(delta, '+.2f')} pp: {loss_or_gain(delta)} "
        f"over the same {study.facts.eval_images:,} images; it predicts the same class on "
        f"{shown(recipe.accuracy.agreement_pct, '.2f')} %.{_excluded(recipe.accuracy, study)}"
    )


def _embedding(name: str, found: Accuracy) -> str:
    """How near a recipe's embeddings are to FP32's."""
    if found.class_token_p1_cosine is None:
        return ""
    return (
        f"the embeddings of {code(name)} have a cosine to those of {code(BASELINE)} of "
        f"{found.class_token_mean_cosine:.4f} on average, {found.class_token_p1_cosine:.4f} at the 1st percentile and "
        f"{found.class_token_least_cosine:.4f} at least, and {shown(found.nearest_agreement_pct, '.2f')} % of the "
        "images have the same nearest neighbour; "
    )


def _excluded(accuracy: Accuracy, study: Study) -> str:
    """Whether a loss of the budget is excluded, and how good this study was at that."""
    test = non_inferiority(accuracy, study.facts.eval_images, BUDGET)
    if not test:
        return ""
    verdict, images = "is" if test.shown else "is not", study.facts.eval_images
    return (
        f" A loss of {BUDGET:g} pp or more {verdict} excluded: of a recipe that loses nothing, {images:,} images would "
        f"exclude it in about {100 * test.power:.0f} % of studies, {test.images:,} in 80 % (non-inferiority, "
        "one-sided at 2.5 %)."
    )


def _footprint(name: str, study: Study) -> str:
    ours, theirs = study.recipes[name].footprint, study.baseline.footprint
    if not ours or not theirs:
        return f"{code(name)} was not measured: see below."
    peak, before = ours.memory_peak_mb, theirs.memory_peak_mb
    peaks = [shown(part.memory_peak_mb, ".0f", part.memory_peak_range_mb) for part in (ours, theirs)]
    several = "; medians of the launches, and their ranges" if ours.memory_peak_range_mb else ""
    return (
        f"{code(name)} ships {ours.size_mb:.1f} MB for {theirs.size_mb:.1f} MB "
        f"({relative(ours.size_reduction_pct or 0)}) and takes {peaks[0]} MB at its peak, loading and at batch 1, for "
        f"{peaks[1]} MB ({relative(100 * (1 - peak / before))}{several})."
    )


def _others(study: Study) -> str:
    """How many lose, gain and run faster beyond their intervals."""
    first = study.sizes[0]
    recipes = {name: recipe for name, recipe in study.recipes.items() if recipe.traits.quantized}
    deltas = {name: recipe.top1_delta for name, recipe in recipes.items() if recipe.top1_delta}
    parts = []
    for verdict, words in (("a loss", f"lose {top1(study)} beyond the interval"), ("a gain", "gain it")):
        named = [
            f"{code(name)} {interval(delta, '+.2f')} pp"
            for name, delta in deltas.items()
            if loss_or_gain(delta) == verdict
        ]
        parts.append(f"{len(named)} of {len(deltas)} {words}" + (f" ({', '.join(named)})" if named else ""))
    kept = [name for name, recipe in recipes.items() if _differs(recipe)]
    if deltas:
        number = len([recipe for recipe in study.recipes.values() if recipe.top1_delta])
        parts.append(f"{len(kept)} differ after Holm's correction for {number} comparisons")
    if not deltas:
        parts = ["accuracy was not measured"]
    timed = [recipe.at(first) for recipe in recipes.values() if first in recipe.speeds]
    floats = [speed.best_float for speed in timed if speed.best_float]
    if floats:
        faster = sum(faster_or_slower(rival.ratio) == "faster" for rival in floats)
        parts.append(
            f"at batch {first} {faster} of {len(floats)} are faster than the best floating-point recipe, "
            f"{code(floats[0].recipe)}"
        )
    ratios = [speed.speedup for speed in timed if speed.speedup]
    if ratios:
        faster = sum(faster_or_slower(ratio) == "faster" for ratio in ratios)
        parts.append(f"{faster} of {len(ratios)} are faster than {code(BASELINE)}")
    return f"{'; '.join(parts)}.{_seed(study)}"


def _differs(recipe: Recipe) -> bool:
    """Whether its top-1 differs from FP32's after Holm's correction."""
    p = recipe.accuracy.holm_p if recipe.accuracy else None
    return p is not None and p <= ALPHA


def _seed(study: Study) -> str:
    recipe, first, parts = study.recipes.get(SEED_RECIPE), study.sizes[0], []
    if recipe and recipe.top1_delta:
        verdict = loss_or_gain(recipe.top1_delta)
        parts.append(f"{shown(recipe.top1_delta, '+.2f')} pp of top-1 ({verdict})")
    if recipe and recipe.accuracy and (delta := recipe.accuracy.top1_delta_large_batch):
        size = recipe.accuracy.large_batch
        parts.append(f"{shown(delta, '+.2f')} pp in batches of {size} ({loss_or_gain(delta)})")
    if recipe and (ratio := recipe.speedup(first)):
        parts.append(f"{shown(ratio, '.2f')} × the speed of {code(BASELINE)} at batch {first}")
    return f" The seed report's recipe, {code(SEED_RECIPE)}: {', '.join(parts)}." if parts else ""
