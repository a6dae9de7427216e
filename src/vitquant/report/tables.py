"""The tables of the report, from what metrics.json and its neighbours hold."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

from vitquant.errors import printable
from vitquant.report.text import MISSING, code, escape, estimate, value

Row = dict[str, str]
MARKDOWN = "pipe"


def summary(metrics: dict[str, Any], style: str = MARKDOWN, marked: str | None = None) -> str:
    """One row per recipe: what it gains and what it costs.

    Args:
        style: a tabulate format; names are escaped in Markdown's, and as a terminal needs it in others.
        marked: the recipe to set in bold.
    """
    sizes = batch_sizes(metrics)
    rows = [_summary_row(name, recipe, sizes) for name, recipe in metrics["recipes"].items()]
    for row in rows:
        bold = "**" if style == MARKDOWN and row["recipe"] == marked else ""
        row["recipe"] = f"{bold}{escape(row['recipe'])}{bold}" if style == MARKDOWN else printable(row["recipe"])
    return table(rows, style)


def accuracy(metrics: dict[str, Any]) -> str:
    """Top-1 and top-5 with their intervals, and the paired difference to FP32."""
    return table(
        {
            "recipe": escape(name),
            "top-1 %": estimate(recipe, "top1_pct", ".2f"),
            "top-5 %": estimate(recipe, "top5_pct", ".2f"),
            "Δ top-1, pp": estimate(recipe, "top1_delta_pp", "+.2f"),
            "Δ top-5, pp": estimate(recipe, "top5_delta_pp", "+.2f"),
            "McNemar p": value(recipe, "mcnemar_p", ".4f"),
            "agreement %": value(recipe, "agreement_pct", ".2f"),
        }
        for name, recipe in metrics["recipes"].items()
    )


def latency(metrics: dict[str, Any]) -> str:
    """A table per batch size: the distribution, the speed-ups with their intervals, the throughput."""
    return "\n\n".join(f"Batch {size}:\n\n{_latency(metrics, size)}" for size in batch_sizes(metrics))


def _latency(metrics: dict[str, Any], size: int) -> str:
    return table(
        {
            "recipe": escape(name),
            "mean ms": estimate(recipe, f"latency_b{size}_mean_ms", ".1f"),
            "p50 ms": value(recipe, f"latency_b{size}_ms_p50", ".1f"),
            "p90 ms": value(recipe, f"latency_b{size}_ms_p90", ".1f"),
            "p99 ms": value(recipe, f"latency_b{size}_ms_p99", ".1f"),
            "CV %": value(recipe, f"latency_b{size}_cv_pct", ".1f"),
            "speed-up ×": estimate(recipe, f"speedup_b{size}_x", ".2f"),
            "× compiled BF16": estimate(recipe, f"vs_bf16_compiled_b{size}_x", ".2f"),
            "images/s": value(recipe, f"throughput_b{size}_img_s", ".1f"),
        }
        for name, recipe in metrics["recipes"].items()
    )


def memory(metrics: dict[str, Any]) -> str:
    """Memory and size."""
    return table(
        {
            "recipe": escape(name),
            "memory after inference, MB": value(recipe, "memory_model_mb", ".1f"),
            "peak memory, MB": value(recipe, "memory_peak_mb", ".1f"),
            "size, MB": value(recipe, "size_mb", ".2f"),
            "size reduction %": value(recipe, "size_reduction_pct", ".1f"),
        }
        for name, recipe in metrics["recipes"].items()
    )


def environment(values: dict[str, Any]) -> str:
    """The machine and the software."""
    return table(
        (
            {"what": escape(key), "value": escape(", ".join(map(str, value)) if isinstance(value, list) else value)}
            for key, value in values.items()
            if value is not None  # a quota that there is not
        ),
        text_columns=2,
    )


def claims(findings: Sequence[Any]) -> str:
    """The audit of the seed report, from `claims.audit`."""
    return table(
        (
            {
                "claim": finding.claim,
                "claimed": finding.claimed,
                "measured here": finding.measured,
                "verdict": f"**{finding.verdict}**",
                "why": finding.reason,
            }
            for finding in findings
        ),
        text_columns=5,
    )


def unavailable(recipes: dict[str, dict[str, Any]]) -> str:
    """A line for everything that could not be measured, with the recipes that it is true of, or the empty string."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, recipe in recipes.items():
        for what, reason in recipe.get("unavailable", {}).items():
            found.setdefault((what, reason), []).append(code(name))
    lines = [f"- {escape(what)} of {', '.join(names)}: {escape(reason)}" for (what, reason), names in found.items()]
    return "\n".join(["Not measured:", "", *lines]) if lines else ""


def batch_sizes(metrics: dict[str, Any]) -> list[int]:
    """The batch sizes that were timed, ascending."""
    keys = {key for recipe in metrics["recipes"].values() for key in recipe}
    return sorted(int(found[1]) for key in keys if (found := re.fullmatch("latency_b([0-9]{1,9})_ms_p50", key)))


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


def _summary_row(name: str, recipe: dict[str, Any], sizes: list[int]) -> Row:
    first, last = sizes[0], sizes[-1]
    speed = {f"speed-up b{size} ×": estimate(recipe, f"speedup_b{size}_x", ".2f") for size in (first, last)}
    return {
        "recipe": name,
        "top-1 %": value(recipe, "top1_pct", ".2f"),
        "Δ top-1, pp": estimate(recipe, "top1_delta_pp", "+.2f"),
        "agreement %": value(recipe, "agreement_pct", ".2f"),
        f"b{first} ms": value(recipe, f"latency_b{first}_ms_p50", ".1f"),
        **speed,
        f"b{last} images/s": value(recipe, f"throughput_b{last}_img_s", ".1f"),
        "peak memory, MB": value(recipe, "memory_peak_mb", ".0f"),
        "size, MB": value(recipe, "size_mb", ".1f"),
    }
