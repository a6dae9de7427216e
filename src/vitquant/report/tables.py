"""The report's tables, from metrics.json alone."""

from typing import Any

from tabulate import tabulate

Row = dict[str, str]
MISSING = "–"


def summary(metrics: dict[str, Any], style: str) -> str:
    """One row per recipe: what it gains and what it costs. `style` is a tabulate format."""
    return _table([_summary_row(name, recipe, batch_sizes(metrics)) for name, recipe in _recipes(metrics)], style)


def accuracy(metrics: dict[str, Any], style: str) -> str:
    """Top-1 and top-5 with their intervals, and the paired difference to FP32."""
    rows = [
        {
            "recipe": name,
            "top-1 %": _with_interval(recipe, "top1_pct", "top1_ci95_pct", ".2f"),
            "top-5 %": _with_interval(recipe, "top5_pct", "top5_ci95_pct", ".2f"),
            "Δ top-1, pp": _with_interval(recipe, "top1_delta_pp", "top1_delta_ci95_pp", "+.2f"),
            "Δ top-5, pp": _with_interval(recipe, "top5_delta_pp", "top5_delta_ci95_pp", "+.2f"),
            "McNemar p": _value(recipe, "mcnemar_p", ".4f"),
            "agreement %": _value(recipe, "agreement_pct", ".2f"),
        }
        for name, recipe in _recipes(metrics)
    ]
    return _table(rows, style)


def latency(metrics: dict[str, Any], style: str) -> str:
    """A row per batch size and recipe: the distribution, the speed-up with its interval, the throughput."""
    rows = [
        {
            "batch": str(size),
            "recipe": name,
            "p50 ms": _value(recipe, f"latency_b{size}_ms_p50", ".1f"),
            "p90 ms": _value(recipe, f"latency_b{size}_ms_p90", ".1f"),
            "p99 ms": _value(recipe, f"latency_b{size}_ms_p99", ".1f"),
            "CV %": _value(recipe, f"latency_b{size}_cv_pct", ".1f"),
            "speed-up ×": _with_interval(recipe, f"speedup_b{size}_x", f"speedup_b{size}_ci95_x", ".2f"),
            "images/s": _value(recipe, f"throughput_b{size}_img_s", ".1f"),
        }
        for size in batch_sizes(metrics)
        for name, recipe in _recipes(metrics)
    ]
    return _table(rows, style)


def memory(metrics: dict[str, Any], style: str) -> str:
    """Memory and size."""
    rows = [
        {
            "recipe": name,
            "memory after inference, MB": _value(recipe, "memory_model_mb", ".1f"),
            "peak memory, MB": _value(recipe, "memory_peak_mb", ".1f"),
            "size, MB": _value(recipe, "size_mb", ".2f"),
            "size reduction %": _value(recipe, "size_reduction_pct", ".1f"),
        }
        for name, recipe in _recipes(metrics)
    ]
    return _table(rows, style)


def environment(metrics: dict[str, Any], style: str) -> str:
    """The machine and the software."""
    rows = [
        {"": key, "value": ", ".join(value) if isinstance(value, list) else str(value)}
        for key, value in metrics["environment"].items()
    ]
    return _table(rows, style)


def unavailable(metrics: dict[str, Any]) -> str:
    """A line for everything that could not be measured, or the empty string."""
    return "\n".join(
        f"- `{name}`, {what}: {reason}"
        for name, recipe in _recipes(metrics)
        for what, reason in recipe.get("unavailable", {}).items()
    )


def batch_sizes(metrics: dict[str, Any]) -> list[int]:
    """The batch sizes that were timed, ascending."""
    keys = metrics["recipes"]["fp32"]
    return sorted(int(key.split("_")[1][1:]) for key in keys if key.startswith("latency_b") and key.endswith("_p50"))


def _summary_row(name: str, recipe: dict[str, Any], sizes: list[int]) -> Row:
    speed = {
        f"speed-up b{size} ×": _with_interval(recipe, f"speedup_b{size}_x", f"speedup_b{size}_ci95_x", ".2f")
        for size in sizes[:2]
    }
    return {
        "recipe": name,
        "top-1 %": _value(recipe, "top1_pct", ".2f"),
        "Δ top-1, pp": _with_interval(recipe, "top1_delta_pp", "top1_delta_ci95_pp", "+.2f"),
        "agreement %": _value(recipe, "agreement_pct", ".2f"),
        f"b{sizes[0]} ms": _value(recipe, f"latency_b{sizes[0]}_ms_p50", ".1f"),
        **speed,
        "peak memory, MB": _value(recipe, "memory_peak_mb", ".0f"),
        "size, MB": _value(recipe, "size_mb", ".1f"),
    }


def _recipes(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(metrics["recipes"].items())


def _value(recipe: dict[str, Any], key: str, form: str) -> str:
    return format(recipe[key], form) if key in recipe else MISSING


def _with_interval(recipe: dict[str, Any], key: str, interval: str, form: str) -> str:
    if key not in recipe:
        return MISSING
    low, high = recipe[interval]
    return f"{recipe[key]:{form}} [{low:{form}}, {high:{form}}]"


def _table(rows: list[Row], style: str) -> str:
    """Text as it is: tabulate must not read the formatted numbers as numbers again."""
    left = ["left"]
    return tabulate(
        rows,
        headers="keys",
        tablefmt=style,
        disable_numparse=True,
        colalign=left + ["right"] * (len(rows[0]) - 1),
    )
