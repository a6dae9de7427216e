"""The answer in five lines: sentences that are made from the numbers, so that they cannot contradict them."""

from vitquant.analysis.findings import Findings, Recipe, Study
from vitquant.analysis.recommend import BUDGET, recommended, subject
from vitquant.analysis.verdicts import faster_or_slower, loss_or_gain
from vitquant.params import BASELINE, SEED_RECIPE
from vitquant.report import gpu_section
from vitquant.report.text import code, escape, interval, listing, relative, shown


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
        return f"{code(BASELINE)}: no recipe that loses at most {BUDGET:g} pp of top-1 is faster at batch {first}."
    rule = f"{code(chosen)}, the fastest at batch {first} of the recipes that lose at most {BUDGET:g} pp of top-1"
    if not study.recipes[chosen].traits.quantized:
        rule += "; it does not quantize"
    if delta.low < -BUDGET:
        return f"{rule}. {study.facts.eval_images:,} images do not exclude a loss of up to {-delta.low:.2f} pp."
    return f"{rule}; the whole interval is within that bound."


def _speed(name: str, study: Study) -> str:
    recipe, parts = study.recipes[name], []
    for size in dict.fromkeys((study.sizes[0], study.sizes[-1])):
        ratio = recipe.speedup(size)
        if ratio:
            times = f"{recipe.at(size).p50_ms:.1f} ms instead of {study.baseline.at(size).p50_ms:.1f} ms"
            verdict = f"{faster_or_slower(ratio)}; {times}"
            parts.append(f"{shown(ratio, '.2f')} × the speed of {code(BASELINE)} at batch {size} ({verdict})")
    if not parts:
        return f"{code(name)} was not timed: see below."
    return f"{code(name)} has {listing(parts)}{_against_half(recipe, study)}."


def _against_half(recipe: Recipe, study: Study) -> str:
    size = study.sizes[0]
    ratio = recipe.at(size).vs_half if size in recipe.speeds else None
    if not ratio or not study.half:
        return ""
    return (
        f"; against compiled {study.half.short.upper()}, which does not quantize, {shown(ratio, '.2f')} × at batch "
        f"{size} ({faster_or_slower(ratio)})"
    )


def _accuracy(name: str, study: Study) -> str:
    recipe = study.recipes[name]
    if not recipe.accuracy or not recipe.top1_delta:
        return f"{code(name)}: not measured, {escape(recipe.unavailable.get('accuracy', 'see below'))}."
    return (
        f"{code(name)} differs in top-1 by {shown(recipe.top1_delta, '+.2f')} pp: {loss_or_gain(recipe.top1_delta)} "
        f"over the same {study.facts.eval_images:,} images; it predicts the same class on "
        f"{shown(recipe.accuracy.agreement_pct, '.2f')} %."
    )


def _footprint(name: str, study: Study) -> str:
    ours, theirs = study.recipes[name].footprint, study.baseline.footprint
    if not ours or not theirs:
        return f"{code(name)} was not measured: see below."
    peak, before = ours.memory_peak_mb, theirs.memory_peak_mb
    return (
        f"{code(name)} ships {ours.size_mb:.1f} MB for {theirs.size_mb:.1f} MB "
        f"({relative(ours.size_reduction_pct or 0)}) and takes {peak:.0f} MB at its peak for {before:.0f} MB "
        f"({relative(100 * (1 - peak / before))}; one measurement, no interval)."
    )


def _others(study: Study) -> str:
    """How many lose, gain and run faster beyond their intervals."""
    first = study.sizes[0]
    recipes = {name: recipe for name, recipe in study.recipes.items() if recipe.traits.quantized}
    deltas = {name: recipe.top1_delta for name, recipe in recipes.items() if recipe.top1_delta}
    parts = []
    for verdict, words in (("a loss", "lose top-1 beyond the interval"), ("a gain", "gain it")):
        named = [
            f"{code(name)} {interval(delta, '+.2f')} pp"
            for name, delta in deltas.items()
            if loss_or_gain(delta) == verdict
        ]
        parts.append(f"{len(named)} of {len(deltas)} {words}" + (f" ({', '.join(named)})" if named else ""))
    if not deltas:
        parts = ["accuracy was not measured"]
    ratios = [ratio for recipe in recipes.values() if (ratio := recipe.speedup(first))]
    if ratios:
        faster = sum(faster_or_slower(ratio) == "faster" for ratio in ratios)
        parts.append(f"{faster} of {len(ratios)} are faster than {code(BASELINE)} at batch {first}")
    return f"{'; '.join(parts)}.{_seed(study)}"


def _seed(study: Study) -> str:
    recipe, first, parts = study.recipes.get(SEED_RECIPE), study.sizes[0], []
    if recipe and recipe.top1_delta:
        verdict = loss_or_gain(recipe.top1_delta)
        parts.append(f"{shown(recipe.top1_delta, '+.2f')} pp of top-1 ({verdict})")
    if recipe and (ratio := recipe.speedup(first)):
        parts.append(f"{shown(ratio, '.2f')} × the speed")
    return f" The seed report's recipe, {code(SEED_RECIPE)}: {', '.join(parts)}." if parts else ""
