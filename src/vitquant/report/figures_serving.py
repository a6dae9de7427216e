"""The figure of the server under load."""

from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from vitquant.analysis import serving as analysis
from vitquant.report.style import BLUE, GREEN, GREY, ORANGE, WIDTH, note
from vitquant.results.serving import Serving

SPAN = 2.0  # of the capacity, up to which rates of arrival are drawn


def serving(found: Serving | None) -> Figure:
    """Latency against the rate of arrivals, and throughput against the batch limit, a colour per recipe."""
    if not found:
        return note("the server was not measured with these artifacts on this machine: make loadtest")
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, color in zip(found.artifacts, cycle((BLUE, ORANGE, GREEN, GREY))):
        _latency(left, found, name, color)
        speeds = {
            each.server.max_batch: each.images_per_s
            for each in found.throughput
            if each.server.recipe == name and each.server.workers == 1
        }
        for size, rounds in speeds.items():
            right.plot([size] * len(rounds), rounds, ".", color=color, alpha=0.45)
        medians = [sorted(rounds)[len(rounds) // 2] for rounds in speeds.values()]
        right.plot(list(speeds), medians, "-", color=color, label=name)
    sizes = sorted({each.server.max_batch for each in found.throughput})
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_locator(NullLocator())
    left.set_xlim(left=0)
    left.set_xlabel("requests a second")
    left.set_title("Latency, ms: p99 (solid), p50 (dashed)", loc="left")
    right.set_xscale("log", base=2)
    right.set_xticks(sizes, [str(size) for size in sizes])
    right.minorticks_off()
    right.set_ylim(bottom=0)
    right.set_xlabel("batch limit")
    right.set_title("Images/s, saturated", loc="left")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=len(found.artifacts))
    return figure


def _latency(axes: Axes, found: Serving, name: str, color: str) -> None:
    rates = sorted(
        (rate for rate in found.rates if rate.recipe == name and rate.share <= SPAN), key=lambda rate: rate.rate
    )
    latencies = {rate.rate: times for rate in rates if (times := analysis.latencies(rate))}
    for percent, line in ((99, "-"), (50, "--")):
        values = [times[percent] for times in latencies.values()]
        axes.plot(list(latencies), [each.value for each in values], line, marker="o", markersize=4, color=color)
        for rate, each in zip(latencies, values, strict=True):
            axes.plot([rate, rate], each.interval, color=color, linewidth=3, alpha=0.35)
