"""The report's figures: one style, colour-blind safe (Okabe & Ito 2008), legible at README size, PNG and SVG."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from vitquant import files

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#666666"
WIDTH = 8.0  # inches
STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "figure.dpi": 150,
    "savefig.facecolor": "white",
    "svg.hashsalt": "vitquant",  # the same figure gives the same file
}


def draw(metrics: dict[str, Any], benchmark: dict[str, Any], destination: Path) -> None:
    """Write every figure below `destination`, which is replaced whole."""
    with files.atomic(destination) as partial, mpl.rc_context(STYLE):
        partial.mkdir()
        for name, figure in (
            ("accuracy_difference", _accuracy_difference(metrics)),
            ("latency", _latency(benchmark)),
        ):
            figure.savefig(partial / f"{name}.png")
            figure.savefig(partial / f"{name}.svg", metadata={"Date": None})


def _accuracy_difference(metrics: dict[str, Any]) -> Figure:
    """Top-1 of every recipe less FP32's, over the same images, with its interval."""
    rows = [(name, recipe) for name, recipe in metrics["recipes"].items() if "top1_delta_pp" in recipe]
    figure = Figure(figsize=(WIDTH, 1.5 + 0.45 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    if not rows:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "accuracy was not measured in this study", ha="center", va="center")
        return figure
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    for row, (_, recipe) in enumerate(rows):
        value, (low, high) = recipe["top1_delta_pp"], recipe["top1_delta_ci95_pp"]
        axes.plot([low, high], [row, row], color=BLUE, linewidth=3, solid_capstyle="round")
        axes.plot(value, row, "o", color=BLUE, markersize=9)
        axes.annotate(f"{value:+.2f}", (value, row), xytext=(0, 9), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel("difference in top-1 to FP32, percentage points (95 % interval)")
    axes.set_title(f"Accuracy, {metrics['study']['eval_images']} validation images", loc="left")
    return figure


def _latency(benchmark: dict[str, Any]) -> Figure:
    """Every timed pass as a dot, and the quartiles as a box; a panel per batch size."""
    recipes = {name: recipe["latency_ms"] for name, recipe in benchmark["recipes"].items() if "latency_ms" in recipe}
    sizes = list(recipes["fp32"])
    figure = Figure(figsize=(WIDTH, 1.0 + (0.6 + 0.4 * len(recipes)) * len(sizes)), layout="constrained")
    panels = figure.subplots(len(sizes), 1, squeeze=False)[:, 0]
    jitter = np.random.default_rng(0)
    for axes, size in zip(panels, sizes, strict=True):
        for row, samples in enumerate(recipes.values()):
            times = np.array(samples[size])
            axes.plot(
                times,
                row + jitter.uniform(-0.25, 0.25, len(times)),
                ".",
                color=ORANGE,
                alpha=0.45,
                markersize=5,
            )
            axes.boxplot(
                times, positions=[row], orientation="horizontal", widths=0.6, showfliers=False, manage_ticks=False,
                medianprops={"color": BLUE, "linewidth": 2.5}, boxprops={"color": GREY}, whiskerprops={"color": GREY},
                capprops={"color": GREY},
            )  # fmt: skip
        axes.set_yticks(range(len(recipes)), list(recipes))
        axes.set_ylim(len(recipes) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_title(f"Batch {size}", loc="left")
    panels[-1].set_xlabel("latency, milliseconds per batch (dots: passes; box: quartiles; blue: median)")
    return figure
