"""How well a study knows what its tables say, in a sentence for the terminal."""

from vitquant.analysis.findings import Study
from vitquant.analysis.rules import WIDEST_DIFFERENCE
from vitquant.params import BASELINE
from vitquant.report.text import top1


def sentence(study: Study) -> str:
    """The reach of the widest intervals; and that they are wide, where no small difference could be confirmed."""
    deltas = [recipe.top1_delta for recipe in study.recipes.values() if recipe.top1_delta]
    ratios = [ratio for recipe in study.recipes.values() for size in recipe.speeds if (ratio := recipe.speedup(size))]
    widest = max((delta.high - delta.low for delta in deltas), default=0.0)
    known = [f"differences in {top1(study)} to ±{widest / 2:.1f} pp"] if deltas else []
    if ratios:
        reach = max((ratio.high - ratio.low) / ratio.value for ratio in ratios)
        known.append(f"speeds against {BASELINE} to ±{100 * reach / 2:.0f} %")
    launches = len(study.conditions)
    if not known:
        return "Neither accuracy nor speed was measured."
    text = (
        f"{study.facts.eval_images:,} images and {launches} launch{'es' if launches > 1 else ''}: at worst "
        f"{' and '.join(known)} (95 % intervals)."
    )
    if widest > WIDEST_DIFFERENCE:
        text += " These intervals are wide: a first answer, which more images and launches narrow."
    return text
