"""The report's figures, PNG and SVG; the first three are drawn here."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vitquant import files
from vitquant.analysis.details import Details
from vitquant.analysis.findings import Study
from vitquant.report import figures_detail, figures_serving, style
from vitquant.report.style import BLUE, GREY, ORANGE, PAPER, WIDTH
from vitquant.results.benchmark import Benchmark
from vitquant.results.serving import Serving


@dataclass(frozen=True)
class Drawn:
    """A figure that was written: its file's stem, and what it shows, as text."""

    name: str
    description: str


Drawing = tuple[str, str, Figure]
"""A figure's name, what it shows, and the figure."""


def draw(drawings: Iterable[Drawing], destination: Path) -> list[Drawn]:
    """Write every figure below `destination`, which is replaced whole, as PNG and SVG.

    Args:
        drawings: made one by one, in the style that is set while they are written.
    """
    drawn = []
    with files.atomic(destination) as partial, mpl.rc_context(style.STYLE):
        partial.mkdir()
        for name, description, figure in drawings:
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout is done, and is the same in both formats
            figure.savefig(partial / f"{name}.png")
            figure.savefig(partial / f"{name}.svg", metadata={"Date": None})
            drawn.append(Drawn(name, description))
    return drawn


def drawings(
    study: Study,
    benchmark: Benchmark,
    details: Details,
    images: NDArray[np.uint8] | None,
    marked: Sequence[str],
    serving: Serving | None = None,
) -> Iterator[Drawing]:
    """The report's figures, made one by one. One that there is nothing to draw for says so: every study has them all.

    Args:
        images: of the validation split, for the contact sheet.
        marked: the recipes to set off in colour.
        serving: what the server was measured to do, if it was.
    """
    yield (
        "accuracy_difference",
        "Difference in top-1 to FP32 for each recipe, in percentage points, with 95 % intervals",
        _accuracy_difference(study),
    )
    yield (
        "latency",
        "Latency of each recipe at each batch size, in milliseconds: every timed pass, quartiles and median",
        _latency(benchmark),
    )
    yield (
        "tradeoff",
        "Latency of each recipe against its difference in top-1 to FP32, with 95 % intervals; "
        "blue where no recipe is better at both",
        _tradeoff(study),
    )
    yield (
        "waterfall",
        "Milliseconds per image, step by step from FP32 to vitquant-int8",
        figures_detail.waterfall(study),
    )
    speeds = "Images per second of each recipe against the batch size"
    yield "throughput", speeds, figures_detail.throughput(study, marked)
    yield (
        "footprint",
        "Size on disk and peak memory of each recipe, in MB, beside the seed report's reductions of 74.4 % and 63.2 %",
        figures_detail.footprint(study),
    )
    yield (
        "operations",
        "Where the time of the eager recipes goes: milliseconds per image in linear layers, in attention, in norms and "
        "other operations on each element, and in the rest",
        figures_detail.operations(study),
    )
    yield (
        "per_class",
        "Difference in top-1 to FP32 class by class, in percentage points, with 95 % intervals, the worst first",
        figures_detail.per_class(details),
    )
    compared = next(iter(details.disagreement), "a quantized recipe")
    yield (
        "disagreement",
        f"The images on which FP32 and {compared} disagree most, with both predictions and their "
        "probabilities; orange where the class differs",
        figures_detail.contact_sheet(details, images),
    )
    yield (
        "serving",
        "The server under load: latency of each recipe against the rate of arrivals, median and 99th percentile with "
        "95 % intervals, and throughput against the batch limit",
        figures_serving.serving(serving),
    )


def _accuracy_difference(study: Study) -> Figure:
    """Top-1 of every recipe less FP32's, over the same images, with its interval."""
    rows = [(name, delta) for name, recipe in study.recipes.items() if (delta := recipe.top1_delta)]
    if not rows:
        return style.note("no recipe's accuracy was measured beside FP32's in this study")
    figure = Figure(figsize=(WIDTH, 1.5 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    for row, (_, delta) in enumerate(rows):
        value, low, high = delta.value, delta.low, delta.high
        axes.plot([low, high], [row, row], color=BLUE, linewidth=3, solid_capstyle="round")
        axes.plot(value, row, "o", color=BLUE, markersize=9)
        axes.annotate(
            f"{value:+.2f}", (value, row), xytext=(0, 9), textcoords="offset points", ha="center",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel("difference in top-1 to FP32, percentage points (95 % interval)")
    axes.set_title(f"Accuracy, {study.facts.eval_images:,} validation images", loc="left")
    return figure


def _latency(benchmark: Benchmark) -> Figure:
    """Every timed pass as a dot, and the quartiles as a box; a panel per batch size, without what was too slow."""
    recipes = {
        name: recipe.measured.latency_ms
        for name, recipe in benchmark.recipes.items()
        if recipe.measured and not recipe.measured.slow
    }
    sizes = sorted({size for times in recipes.values() for size in times})
    figure = Figure(figsize=(WIDTH, 1.0 + (0.6 + 0.3 * len(recipes)) * len(sizes)), layout="constrained")
    panels = figure.subplots(len(sizes), 1, squeeze=False)[:, 0]
    jitter = np.random.default_rng(0)
    for axes, size in zip(panels, sizes, strict=True):
        for row, samples in enumerate(recipes.values()):
            if size not in samples:
                continue
            times = np.concatenate([np.array(rounds) for rounds in samples[size]])
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


def _tradeoff(study: Study) -> Figure:
    """Latency at the middle batch size against the difference in top-1, a point and two intervals per recipe.

    Names stand in a column beside the axes, in the points' order of height, so that none covers another.
    """
    size = study.sizes[len(study.sizes) // 2]
    points = _points(study, size)
    figure = Figure(figsize=(WIDTH, max(4.5, 1.2 + 0.3 * len(points))), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=1, linestyle="--")
    best = {name for name, (x, _, y, _) in points.items() if not any(_dominates(p, (x, y)) for p in points.values())}
    for name, (x, x_interval, y, y_interval) in points.items():
        color, marker = (BLUE, "o") if name in best else (ORANGE, "s")
        axes.plot(x_interval, [y, y], color=color, linewidth=1.5, alpha=0.7)
        axes.plot([x, x], y_interval, color=color, linewidth=1.5, alpha=0.7)
        axes.plot(x, y, marker, color=color, markersize=8, markeredgecolor=PAPER)
    axes.set_xlim(left=0)
    low, high = axes.get_ylim()
    names = sorted(points, key=lambda name: (points[name][2], points[name][0]))
    heights = style.spread(
        [(points[name][2] - low) / (high - low) for name in names], min(0.06, 1 / max(1, len(names)))
    )
    for name, height in zip(names, heights, strict=True):
        axes.annotate(
            name, points[name][::2], (1.06, height), textcoords="axes fraction", va="center", annotation_clip=False,
            color=BLUE if name in best else ORANGE,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip
    axes.set_xlabel(f"latency, milliseconds per batch of {size}")
    axes.set_ylabel("difference in top-1 to FP32, pp")
    axes.set_title("Faster is left, more accurate is up; blue: no recipe is better at both", loc="left")
    return figure


Point = tuple[float, tuple[float, float], float, tuple[float, float]]


def _points(study: Study, size: int) -> dict[str, Point]:
    """Latency, its interval, the difference in top-1 and its interval, of the recipes that have both.

    Latency is FP32's median over the paired speed-up: what is slow in some rounds and fast in others cancels.
    """
    fp32 = study.baseline.at(size).p50_ms
    points: dict[str, Point] = {"fp32": (fp32, (fp32, fp32), 0.0, (0.0, 0.0))}
    for name, recipe in study.recipes.items():
        ratio, delta = recipe.speedup(size), recipe.top1_delta
        if ratio and delta:
            points[name] = (fp32 / ratio.value, (fp32 / ratio.low, fp32 / ratio.high), delta.value, delta.interval)
    return points


def _dominates(point: Point, other: tuple[float, float]) -> bool:
    """Whether `point` is as good as `other`, (latency, difference), at both and better at one."""
    x, _, y, _ = point
    return x <= other[0] and y >= other[1] and (x, y) != other
