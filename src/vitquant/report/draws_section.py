"""What the report says of the draws: of the calibration images, of the probe and of the split."""

from collections.abc import Sequence

from vitquant.analysis.draws import Spread
from vitquant.analysis.findings import Estimate, Study
from vitquant.report.tables import table
from vitquant.report.text import code, escape, number, shown

NONE = (
    "How far these differences move with the draw of the calibration images, the probe and the split was not measured "
    "of this study: `make draws` does."
)
WORDS = {"calibration": "calibration images", "probe": "probe", "split": "split"}


def section(spreads: Sequence[Spread], study: Study) -> str:
    """A row per recipe and kind of draw beside the study's own interval, and how much of that the draw is."""
    studied = {name: delta for name, recipe in study.recipes.items() if (delta := recipe.top1_delta)}
    known = [spread for spread in spreads if spread.recipe in studied]
    if not known:
        return NONE
    rows = table(
        (
            {
                "recipe": escape(spread.recipe),
                "drawn anew": WORDS[spread.kind],
                "draws": str(len(spread.deltas)),
                "Δ top-1, pp: mean": number(spread.mean, "+.2f"),
                "standard deviation": number(spread.sd, ".2f"),
                "least": number(min(spread.deltas), "+.2f"),
                "greatest": number(max(spread.deltas), "+.2f"),
                "the study's Δ top-1, pp": shown(studied[spread.recipe], "+.2f"),
            }
            for spread in known
        ),
        text_columns=2,
    )
    return (
        f"The same differences, each over draws of what the study draws once:\n\n{rows}\n\n{_sentences(known, studied)}"
    )


def _sentences(spreads: Sequence[Spread], studied: dict[str, Estimate]) -> str:
    """Of each kind, whose standard deviation is the greatest part of the study's interval, and how great."""
    parts = []
    for kind, words in WORDS.items():
        of_kind = [spread for spread in spreads if spread.kind == kind]
        if of_kind:
            most = max(of_kind, key=lambda spread: spread.widening(studied[spread.recipe]))
            estimate = studied[most.recipe]
            share = 100 * 2 * most.sd / (estimate.high - estimate.low)
            part = f"{words}: at most {share:.0f} % ({code(most.recipe)}"
            if kind != "split":
                part += f", whose interval would be {most.widening(estimate):.0f} % wider with it"
            parts.append(f"{part})")
    return (
        f"The standard deviation over draws, of half the width of the study's interval: {'; '.join(parts)}. "
        "Another split has other validation images, which the interval allows for; for the other draws it does not."
    )
