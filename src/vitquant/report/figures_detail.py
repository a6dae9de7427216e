"""The figures behind the first ones: steps, throughput, footprint, operations, classes, and images that moved most."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vitquant.analysis.claims import MEMORY_CHANGE, SIZE_CHANGE
from vitquant.analysis.details import Details
from vitquant.analysis.findings import Study
from vitquant.errors import printable
from vitquant.report.style import BLUE, GREEN, GREY, INK, ORANGE, PAPER, WIDTH, note, spread

COLORS = (BLUE, ORANGE, GREEN, GREY)  # of the kinds of operation, in the profile's order
CLASSES = 14  # the most that the figure of classes names
COLUMNS = 4  # of the contact sheet
STEPS = {  # each recipe adds to the one before; docs/vitquant-int8.md has the smaller steps
    "fp32": "PyTorch eager",
    "dynamic-int8-per-channel": "INT8 linear layers",
    "dynamic-int8-smooth": "smoothing, GPTQ, the class token in two parts",
    "vitquant-int8": "per-token scales, fused kernels",
}


def waterfall(study: Study) -> Figure:
    """Milliseconds per image at the middle batch size, step by step from FP32 to `vitquant-int8`.

    The bars' ends are FP32's median over the paired speed-ups.
    """
    size = study.sizes[len(study.sizes) // 2]
    fp32 = study.baseline.at(size).p50_ms / size
    speedups = {"fp32": 1.0} | {
        name: ratio.value for name in STEPS if name in study.recipes and (ratio := study.recipes[name].speedup(size))
    }
    figure = Figure(figsize=(WIDTH, 1.3 + 0.62 * len(speedups)), layout="constrained")
    axes = figure.subplots()
    before = 0.0
    for row, (name, speedup) in enumerate(speedups.items()):
        time = fp32 / speedup
        color = GREY if name == "fp32" else BLUE if time <= before else ORANGE
        axes.barh(row, time - before, left=before, color=color, height=0.55)
        change = "" if name == "fp32" else f" ({time - before:+.1f}; {speedup:.2f} ×)"
        axes.annotate(f"{time:.1f} ms{change}", (max(time, before), row), xytext=(6, 0), textcoords="offset points",
                      va="center")  # fmt: skip
        if row:
            axes.plot([before, before], [row - 1, row], color=GREY, linewidth=0.8, linestyle=":")
        before = time
    axes.set_yticks(range(len(speedups)), [f"{name}\n{STEPS[name]}" for name in speedups], fontsize=9)
    axes.set_ylim(len(speedups) - 0.5, -0.5)
    axes.set_xlim(0, 1.85 * fp32)
    axes.set_xlabel(f"milliseconds per image at batch {size}")
    axes.set_title("Blue takes off, orange adds; ×: the speed-up so far", loc="left")
    return figure


def throughput(study: Study, marked: Sequence[str]) -> Figure:
    """Images per second against the batch size, the marked recipes in colour; names beside the lines' ends."""
    sizes = study.sizes
    lines = {
        name: [recipe.at(size).images_per_s for size in sizes]
        for name, recipe in study.recipes.items()
        if all(size in recipe.speeds for size in sizes)
    }
    colors = dict(zip(("fp32", *marked), (INK, BLUE, ORANGE, GREEN), strict=False))
    figure = Figure(figsize=(WIDTH, max(4.5, 1.2 + 0.3 * len(lines))), layout="constrained")
    axes = figure.subplots()
    for name, speeds in lines.items():
        color, width = colors.get(name, GREY), 2.5 if name in colors else 1.0
        axes.plot(sizes, speeds, "o-", color=color, linewidth=width, markersize=2 * width, zorder=2 + width)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    names = sorted(lines, key=lambda name: lines[name][-1])
    top = axes.get_ylim()[1]
    heights = spread([lines[name][-1] / top for name in names], min(0.06, 1 / max(1, len(names))))
    for name, height in zip(names, heights, strict=True):
        axes.annotate(
            name, (sizes[-1], lines[name][-1]), (1.06, height), textcoords="axes fraction", va="center",
            annotation_clip=False, color=colors.get(name, GREY), fontsize=10,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip
    axes.set_xlabel("batch size, images")
    axes.set_ylabel("throughput, images per second (median)")
    axes.set_title("Higher is better", loc="left")
    return figure


def footprint(study: Study) -> Figure:
    """Size and peak memory of every recipe, and what the seed report's reductions would make of FP32's."""
    recipes = {name: recipe.footprint for name, recipe in study.recipes.items() if recipe.footprint}
    figure = Figure(figsize=(WIDTH, 1.6 + 0.3 * len(recipes)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, label, claimed in (
        (panels[0], "size_mb", "size on disk, MB", SIZE_CHANGE),
        (panels[1], "memory_peak_mb", "peak memory, MB", MEMORY_CHANGE),
    ):
        values = [getattr(footprint, key) for footprint in recipes.values()]
        target = getattr(recipes["fp32"], key) * (1 + claimed / 100)
        colors = [GREY if name == "fp32" else BLUE for name in recipes]
        axes.barh(range(len(values)), values, color=colors, height=0.65)
        for row, megabytes in enumerate(values):
            axes.annotate(f"{megabytes:.0f}", (megabytes, row), xytext=(4, 0), textcoords="offset points", va="center",
                          fontsize=9)  # fmt: skip
        axes.axvline(target, color=ORANGE, linestyle="--", linewidth=1.5)
        axes.set_title(f"seed report: {claimed:+} % of fp32's".replace("-", "\N{MINUS SIGN}"), loc="left", color=ORANGE,
                       fontsize=10)  # fmt: skip
        axes.set_xlim(0, 1.15 * max(values))
        axes.set_xlabel(label)
    panels[0].set_yticks(range(len(recipes)), list(recipes))
    panels[0].set_ylim(len(recipes) - 0.4, -0.6)
    return figure


def operations(study: Study) -> Figure:
    """Milliseconds per image by kind of operation, a stacked bar per recipe that was profiled."""
    recipes = study.profile
    if not recipes:
        return note("no recipe was profiled in this study")
    figure = Figure(figsize=(WIDTH, 1.9 + 0.6 * len(recipes)), layout="constrained")
    axes = figure.subplots()
    longest = max(sum(times.values()) for times in recipes.values())
    for row, times in enumerate(recipes.values()):
        left = 0.0
        for (kind, time), color in zip(times.items(), COLORS, strict=True):
            axes.barh(row, time, left=left, color=color, height=0.55, label=kind if row == 0 else None)
            if time > 0.05 * longest:
                axes.text(left + time / 2, row, f"{time:.1f}", ha="center", va="center", color=PAPER, fontsize=10)
            left += time
        axes.annotate(f"{left:.1f} ms", (left, row), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(recipes)), list(recipes))
    axes.set_ylim(len(recipes) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * longest)
    axes.set_xlabel(f"milliseconds per image at batch {study.profile_batch}, under the profiler")
    figure.legend(loc="outside upper left", ncols=len(COLORS), frameon=False, fontsize=10)
    return figure


def per_class(details: Details) -> Figure:
    """Top-1 of each class less FP32's, with intervals: the worst classes of each recipe, by name."""
    recipes = {name: rows for name, rows in details.per_class.items() if rows}
    if not recipes:
        return note("no quantized recipe's accuracy was measured beside FP32's in this study")
    shown = {name: rows[:CLASSES] for name, rows in recipes.items()}
    heights = [len(rows) for rows in shown.values()]
    figure = Figure(figsize=(WIDTH, 1.0 + sum(0.9 + 0.34 * height for height in heights)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0]
    for axes, (name, rows) in zip(panels, shown.items(), strict=True):
        axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
        for index, row in enumerate(rows):
            low, high = row.top1_delta.interval
            color = ORANGE if high < 0 else BLUE
            axes.plot([low, high], [index, index], color=color, linewidth=3, solid_capstyle="round")
            axes.plot(row.top1_delta.value, index, "o" if color == BLUE else "s", color=color, markersize=8)
        axes.set_yticks(range(len(rows)), [f"{_short(row.name)} ({row.images})" for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        total = len(recipes[name])
        which = f"the worst {len(rows)} of {total} classes" if total > len(rows) else f"{total} classes"
        axes.set_title(f"{name}: {which} (images)", loc="left")
    panels[-1].set_xlabel("difference in top-1 to FP32, pp (95 % interval; orange: a loss beyond it)")
    return figure


def contact_sheet(details: Details, images: NDArray[np.uint8] | None) -> Figure:
    """The images whose predicted probabilities moved most, with both predictions."""
    rows = [row for found in details.disagreement.values() for row in found]
    if not rows or images is None:
        return note("no quantized recipe's predictions were compared with FP32's in this study")
    lines = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 2.6 * lines), layout="constrained")
    for axes in (panels := figure.subplots(lines, COLUMNS, squeeze=False).ravel()):
        axes.set_axis_off()
    for axes, row in zip(panels, rows, strict=False):
        axes.imshow(images[row.row][::2, ::2], interpolation="nearest")
        same = row.fp32 == row.recipe
        axes.set_title(
            f"true: {_short(row.true_class)}\nFP32: {_short(row.fp32)}, {row.fp32_probability:.2f}\n"
            f"INT8: {_short(row.recipe)}, {row.recipe_probability:.2f}",
            loc="left", fontsize=9, color=INK if same else ORANGE,
        )  # fmt: skip
    return figure


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 18 else f"{name[:17]}…"  # noqa: PLR2004
