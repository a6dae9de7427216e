"""The tables of the report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tabulate import tabulate

from vitquant.analysis.claims import Audited
from vitquant.analysis.columns import ACCURACY, FOOTPRINT, SPEED, Column, nothing, ratio_to
from vitquant.analysis.findings import Accuracy, Estimate, Range, Recipe, Study
from vitquant.analysis.quantities import Measured
from vitquant.analysis.verdicts import faster_or_slower
from vitquant.errors import printable
from vitquant.report.text import MISSING, code, escape, inline, shown, top1

Row = dict[str, str]
Part = TypeVar("Part")
MARKDOWN = "pipe"


def summary(study: Study, style: str = MARKDOWN, marked: str | None = None) -> str:
    """One row per recipe: what it gains and what it costs.

    Args:
        style: a tabulate format; names are escaped in Markdown's, and as a terminal needs it in others.
        marked: the recipe to set in bold.
    """
    rows = [_summary_row(name, recipe, study) for name, recipe in study.recipes.items()]
    for row in rows:
        bold = "**" if style == MARKDOWN and row["recipe"] == marked else ""
        row["recipe"] = f"{bold}{escape(row['recipe'])}{bold}" if style == MARKDOWN else printable(row["recipe"])
    return table(rows, style)


def _summary_row(name: str, recipe: Recipe, study: Study) -> Row:
    first, last = study.sizes[0], study.sizes[-1]
    accuracy, footprint = recipe.accuracy, recipe.footprint
    at_first, at_last = recipe.speeds.get(first), recipe.speeds.get(last)
    return {
        "recipe": name,
        **_embedding(accuracy if study.facts.embedding else None),
        f"{top1(study)} %": cell(accuracy, lambda part: part.top1.value, ".2f"),
        f"Δ {top1(study)}, pp": shown(recipe.top1_delta, "+.2f"),
        "agreement %": cell(accuracy, lambda part: part.agreement_pct, ".2f"),
        f"b{first} ms": cell(at_first, lambda part: part.p50_ms, ".1f"),
        f"× best other float b{first}": cell(at_first, lambda part: ratio_to(part.best_float), ".2f"),
        f"× best other float b{last}": cell(at_last, lambda part: ratio_to(part.best_float), ".2f"),
        f"× fp32 b{first}": shown(recipe.speedup(first), ".2f"),
        f"b{last} images/s": cell(at_last, lambda part: part.images_per_s, ".1f"),
        "peak memory, MB": cell(footprint, lambda part: part.memory_peak_mb, ".0f"),
        "size, MB": cell(footprint, lambda part: part.size_mb, ".1f"),
    }


def _embedding(found: Accuracy | None) -> Row:
    return {
        "mean cosine": cell(found, lambda part: part.class_token_mean_cosine, ".4f"),
        "cosine, 1st percentile": cell(found, lambda part: part.class_token_p1_cosine, ".4f"),
        "same nearest %": cell(found, lambda part: part.nearest_agreement_pct, ".2f"),
    }


def accuracy(study: Study) -> str:
    """Top-1 and top-5 with their intervals, the paired difference to FP32, and how far embeddings move."""
    return section({name: recipe.accuracy for name, recipe in study.recipes.items()}, ACCURACY)


def latency(study: Study) -> str:
    """A table per batch size: the distribution, the speed-ups with their intervals, the throughput."""
    parts = []
    for size in study.sizes:
        speeds = {name: recipe.speeds.get(size) for name, recipe in study.recipes.items()}
        parts.append(f"Batch {size}{_leaders(study, size)}{_split(study, size)}:\n\n{section(speeds, SPEED)}")
    return "\n\n".join(parts)


def _leaders(study: Study, size: int) -> str:
    """Who the rivals are: the fastest two recipes of a batch size, and the fastest that does not quantize."""
    for name, recipe in study.recipes.items():
        speed = recipe.speeds.get(size)
        if speed and speed.fastest_other and speed.best_float and speed.fastest_other.ratio.value >= 1:
            best_float = speed.best_float.recipe if recipe.traits.quantized else name
            pace = faster_or_slower(speed.fastest_other.ratio)
            then = f"then {code(speed.fastest_other.recipe)}{'' if pace == 'faster' else f', {pace}'}"
            return f" (the fastest is {code(name)}, {then}; of those that do not quantize {code(best_float)})"
    return ""


def _split(study: Study, size: int) -> str:
    """Which recipes run a batch of a size split over the cores, and which whole on all of them."""
    ways: dict[str, list[str]] = {"split": [], "whole": []}
    for name, recipe in study.recipes.items():
        if size in recipe.speeds and (way := recipe.at(size).way):
            ways[way].append(code(name))
    split, whole = (", ".join(names) for names in ways.values())
    if split and whole:
        return f"; split over the cores: {split}; whole on all cores: {whole}"
    return "; all split over the cores" if split else "; all whole on all cores" if whole else ""


def memory(study: Study) -> str:
    """Memory and size."""
    return section({name: recipe.footprint for name, recipe in study.recipes.items()}, FOOTPRINT)


def section(parts: Mapping[str, Any], shown_columns: Sequence[Column[Any]]) -> str:
    """A part of every recipe's findings, by its columns; dashes where there is none."""
    return table(
        {
            "recipe": escape(name),
            **{column.title: cell(part, column.of, column.form, column.spread) for column in shown_columns},
        }
        for name, part in parts.items()
    )


def cell(
    part: Part | None,
    of: Callable[[Part], Estimate | float | None],
    form: str,
    spread: Callable[[Part], Range | None] = nothing,
) -> str:
    """A value of a part of the findings, as `shown` does; a dash where there is no such part."""
    return MISSING if part is None else shown(of(part), form, spread(part))


def environment(study: Study) -> str:
    """The machine and the software."""
    facts = study.environment.model_dump(exclude_none=True)
    return table(
        (
            {"what": escape(key), "value": escape(", ".join(map(str, value)) if isinstance(value, list) else value)}
            for key, value in facts.items()
        ),
        text_columns=2,
    )


def claims(audited: Sequence[Audited]) -> str:
    """The audit of the seed report."""
    return table(
        (
            {
                "claim": inline(each.claim.what),
                "claimed": inline(stated(each)),
                "measured here": measured(each.measured),
                "verdict": f"**{each.verdict}**",
                "why": inline(each.reason),
            }
            for each in audited
        ),
        text_columns=5,
    )


def setup(rows: Sequence[tuple[str, str, Measured | None]]) -> str:
    """What the seed report ran on, beside what was used here."""
    return table(
        ({"what": what, "the seed report's": theirs, "here": measured(ours)} for what, theirs, ours in rows),
        text_columns=3,
    )


def stated(each: Audited) -> str:
    """What was claimed, with its unit."""
    value = each.claim.value
    return f"{value if isinstance(value, str) else format(value, 'g')} {each.claim.unit}".rstrip()


def measured(found: Measured | None) -> str:
    """A value with its interval and unit, and where it was measured."""
    if found is None:
        return MISSING
    if isinstance(found.value, str):
        return inline(found.value + (f" ({found.where})" if found.where else ""))
    label = f"{found.label} " if found.label else ""
    return f"{label}{shown(found.value, found.form)} {found.unit} ({inline(found.where)})"


def unavailable(study: Study) -> str:
    """A line for everything that could not be measured, with the recipes that it is true of, or the empty string."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, recipe in study.recipes.items():
        for what, reason in recipe.unavailable.items():
            found.setdefault((what, reason), []).append(code(name))
    lines = [f"- {escape(what)} of {', '.join(names)}: {escape(reason)}" for (what, reason), names in found.items()]
    return "\n".join(["Not measured:", "", *lines]) if lines else ""


def table(rows: Iterable[Row], style: str = MARKDOWN, text_columns: int = 1) -> str:
    """Rows as a table, without the columns that are empty in all of them; the first `text_columns` align left."""
    rows = list(rows)
    filled = [key for key in rows[0] if any(row[key] != MISSING for row in rows)]
    return tabulate(
        [[row[key] for key in filled] for row in rows],
        headers=filled,
        tablefmt=style,
        disable_numparse=True,  # the numbers are formatted
        colalign=["left" if index < text_columns else "right" for index in range(len(filled))],
    )
