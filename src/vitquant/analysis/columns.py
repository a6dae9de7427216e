"""Every quantity that tables show, once: its title in the report, its key in flat files, and where it is found.

A line here stands in the report's table of its section (of the CPU's; a GPU's tables choose), in metrics.json and in
results.csv. A new quantity is a field of findings.py, `| None = None` so that older files are still read; its value,
made in estimates.py from what a stage left; and a line here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vitquant.analysis.findings import Accuracy, Estimate, Footprint, Range, Rival, Speed

Part = TypeVar("Part", Accuracy, Speed, Footprint)


def nothing(_: object) -> None:
    """No spread."""


@dataclass(frozen=True)
class Column(Generic[Part]):
    """One quantity of a part of a recipe's findings."""

    title: str
    """In the report."""
    key: str
    """In flat files; the last word is the unit, or stands for one; `{b}` is where metrics.json has the batch size."""
    of: Callable[[Part], Estimate | float | None]
    form: str
    """As Python formats it."""
    spread: Callable[[Part], Range | None] = nothing
    """The least and the greatest of several measurements, whose median it is."""


ACCURACY: tuple[Column[Accuracy], ...] = (
    Column("top-1 %", "top1_pct", lambda accuracy: accuracy.top1, ".2f"),
    Column("top-5 %", "top5_pct", lambda accuracy: accuracy.top5, ".2f"),
    Column("Δ top-1, pp", "top1_delta_pp", lambda accuracy: accuracy.top1_delta, "+.2f"),
    Column("Δ top-5, pp", "top5_delta_pp", lambda accuracy: accuracy.top5_delta, "+.2f"),
    Column("gained", "gained_images", lambda accuracy: accuracy.gained, "d"),
    Column("lost", "lost_images", lambda accuracy: accuracy.lost, "d"),
    Column("McNemar p", "mcnemar_p", lambda accuracy: accuracy.mcnemar_p, ".4f"),
    Column("Holm p", "holm_p", lambda accuracy: accuracy.holm_p, ".4f"),
    Column("agreement %", "agreement_pct", lambda accuracy: accuracy.agreement_pct, ".2f"),
    Column("embedding, mean cosine", "class_token_mean_cosine", lambda each: each.class_token_mean_cosine, ".4f"),
    Column("1st percentile", "class_token_p1_cosine", lambda accuracy: accuracy.class_token_p1_cosine, ".4f"),
    Column("least cosine", "class_token_least_cosine", lambda accuracy: accuracy.class_token_least_cosine, ".4f"),
    Column("same nearest %", "nearest_agreement_pct", lambda accuracy: accuracy.nearest_agreement_pct, ".2f"),
    Column("predicted itself", "own_images", lambda accuracy: accuracy.own_images, "d"),
    Column("may differ", "undecided_images", lambda accuracy: accuracy.undecided_images, "d"),
    Column("large batch", "large_batch_images", lambda accuracy: accuracy.large_batch, "d"),
    Column("top-1 % in it", "top1_large_batch_pct", lambda accuracy: accuracy.top1_large_batch, ".2f"),
    Column("Δ top-1 in it, pp", "top1_delta_large_batch_pp", lambda accuracy: accuracy.top1_delta_large_batch, "+.2f"),
    Column(
        "agreement % in it", "agreement_large_batch_pct", lambda accuracy: accuracy.agreement_large_batch_pct, ".2f"
    ),
)

FOOTPRINT: tuple[Column[Footprint], ...] = (
    Column(
        "memory after inference, MB",
        "memory_model_mb",
        lambda footprint: footprint.memory_model_mb,
        ".1f",
        lambda footprint: footprint.memory_model_range_mb,
    ),
    Column(
        "peak memory, MB",
        "memory_peak_mb",
        lambda footprint: footprint.memory_peak_mb,
        ".1f",
        lambda footprint: footprint.memory_peak_range_mb,
    ),
    Column("the process on the GPU, MB", "memory_process_mb", lambda footprint: footprint.memory_process_mb, ".1f"),
    Column("size, MB", "size_mb", lambda footprint: footprint.size_mb, ".2f"),
    Column("size reduction %", "size_reduction_pct", lambda footprint: footprint.size_reduction_pct, ".1f"),
)

SPEED: tuple[Column[Speed], ...] = (  # of one batch size
    Column("mean ms", "latency_{b}_mean_ms", lambda speed: speed.mean, ".1f"),
    Column("p50 ms", "latency_{b}_ms_p50", lambda speed: speed.p50_ms, ".1f"),
    Column("p90 ms", "latency_{b}_ms_p90", lambda speed: speed.p90_ms, ".1f"),
    Column("p99 ms", "latency_{b}_ms_p99", lambda speed: speed.p99_ms, ".1f"),
    Column("spread over launches %", "latency_{b}_spread_pct", lambda speed: speed.spread_pct, ".1f"),
    Column("from a file, p50 ms", "latency_{b}_from_file_ms", lambda speed: speed.from_file_ms, ".1f"),
    Column("× fastest other", "vs_fastest_other_{b}_x", lambda speed: ratio_to(speed.fastest_other), ".2f"),
    Column("× best other float", "vs_best_float_{b}_x", lambda speed: ratio_to(speed.best_float), ".2f"),
    Column("× fp32", "speedup_{b}_x", lambda speed: speed.speedup, ".2f"),
    Column("images/s", "throughput_{b}_img_s", lambda speed: speed.images_per_s, ".1f"),
    Column("10⁹ products/s", "linear_{b}_gproducts_s", lambda speed: speed.gproducts_per_s, ".0f"),
    Column("% of register rate", "register_{b}_pct", lambda speed: speed.register_pct, ".0f"),
    Column("mJ per image", "energy_{b}_mj_img", lambda speed: speed.energy_mj, ".1f"),
    Column(
        "peak memory at this batch, MB",
        "memory_{b}_peak_mb",
        lambda speed: speed.memory_peak_mb,
        ".1f",
        lambda speed: speed.memory_peak_range_mb,
    ),
)


def ratio_to(rival: Rival | None) -> Estimate | None:
    """To a rival, if there is one."""
    return rival.ratio if rival else None


def interval_key(key: str) -> str:
    """The key of the interval of the value at `key`; the unit stays last."""
    head, _, unit = key.rpartition("_")
    return f"{head}_ci95_{unit}"
