"""What the report says of outliers: a table for each kind, and the figure of agreement against their factor."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from vitquant.analysis.outliers import Borne, bearing
from vitquant.errors import printable
from vitquant.params import BASELINE
from vitquant.report.style import BLUE, GREEN, GREY, ORANGE, WIDTH, note, spread
from vitquant.report.tables import table
from vitquant.report.text import MISSING, code, escape, listing, shown
from vitquant.results.environment import Environment
from vitquant.results.outliers import Outliers

NONE = "How the recipes bear outliers was not measured of this study: `make outliers` does."
WORDS = {
    "channels": "A few channels of each LayerNorm times the factor, the next layer's columns divided by it: the same "
    "function in FP32",
    "tokens": "The four corner patches' tokens with about the factor times the others' norm: another function, which "
    "FP32's own row compares with the study's",
}
COLORS = (BLUE, ORANGE, GREEN)


def section(measured: Outliers | None) -> str:
    """Of each kind a table, a row per recipe, and who bears it."""
    if not measured:
        return NONE
    found = bearing(measured)
    parts = [
        "Larger ViTs' activations have outliers: here they are put into this study's weights, and the model "
        f"is quantized anew. Agreement is with FP32 on the same weights, over {measured.images} validation images, "
        f"evenly of all classes; brackets are 95 % intervals. Measured {_where(measured.environment)}."
    ]
    for kind, words in WORDS.items():
        of_kind = [each for each in found if each.kind == kind]
        if of_kind:
            parts += [f"{words}. {_sentence(of_kind)}", _table(of_kind)]
    parts += [f"{code(name)} is left out: {escape(reason)}." for name, reason in measured.left_out.items()]
    return "\n\n".join(parts)


def _where(environment: Environment) -> str:
    return f"on {escape(environment.cpu)}, commit {escape(environment.git_commit[:12])}"


def _table(found: Sequence[Borne]) -> str:
    factors = sorted({factor for each in found for factor in each.agreement})
    return table(
        {
            "recipe": escape(each.recipe),
            **{f"agreement % at {factor:g}": shown(each.agreement.get(factor), ".1f") for factor in factors},
            f"Δ top-1 at {factors[-1]:g}, pp": shown(each.delta.get(factors[-1]), "+.1f"),
            "greatest Δ of a logit": f"{each.moved:.2g}" if each.recipe == BASELINE else MISSING,
        }
        for each in found
    )


def _sentence(found: Sequence[Borne]) -> str:
    """Who bears the greatest factor, and of the others how often they then agree, the worst last."""
    recipes = [each for each in found if each.recipe != BASELINE]
    factor = max((each.greatest for each in recipes), default=1.0)
    if factor == 1:
        return ""
    bear = [code(each.recipe) for each in recipes if each.borne]
    others = sorted((each for each in recipes if not each.borne), key=lambda each: -each.agreement[each.greatest].value)
    sentences = [f"At {factor:g} {listing(bear)} {'agrees' if len(bear) == 1 else 'agree'} as without."] if bear else []
    if others:
        told = [f"to {each.agreement[each.greatest].value:.0f} % with {code(each.recipe)}" for each in others]
        sentences.append(f"At {factor:g} agreement falls {listing(told)}.")
    return " ".join(sentences)


def figure(measured: Outliers | None, marked: Sequence[str]) -> Figure:
    """Agreement against the factor, a panel per kind, the marked recipes in colour; names beside the lines' ends."""
    if not measured:
        return note("how the recipes bear outliers was not measured of this study: make outliers does")
    drawn = Figure(figsize=(WIDTH, 7.0), layout="constrained")
    panels = drawn.subplots(len(WORDS), 1, sharex=True)
    colors = dict(zip(marked, COLORS, strict=False))
    found = bearing(measured)
    ticks = sorted({factor for each in found for factor in each.agreement})
    for axes, kind in zip(panels, WORDS, strict=True):
        lines = sorted(
            (each for each in found if each.kind == kind and each.recipe != BASELINE),
            key=lambda each: each.agreement[each.greatest].value,
        )
        for each in lines:
            color, width = colors.get(each.recipe, GREY), 2.5 if each.recipe in colors else 1.0
            factors, shares = list(each.agreement), list(each.agreement.values())
            axes.plot(factors, [share.value for share in shares], "o-", color=color, linewidth=width, zorder=2 + width)
            axes.vlines(factors, *zip(*(share.interval for share in shares), strict=True), color=color, alpha=0.4)
        axes.set_ylim(0, 103)
        ends = [each.agreement[each.greatest].value for each in lines]
        for each, end, height in zip(lines, ends, spread([end / 103 for end in ends], 0.09), strict=True):
            axes.annotate(
                printable(each.recipe), (each.greatest, end), (1.04, height), textcoords="axes fraction", va="center",
                annotation_clip=False, color=colors.get(each.recipe, GREY), fontsize=10,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5)},
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{factor:g}" for factor in ticks])
        axes.minorticks_off()
        axes.set_ylabel("agreement with FP32, %")
        axes.set_title(f"Outliers in {kind}", loc="left")
    panels[-1].set_xlabel("factor of the outliers; 1: the study's own weights (bars: 95 % intervals)")
    return drawn
