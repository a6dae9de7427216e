"""results/metrics.json: everything the stages measured, joined, with the paired statistics.

Keys carry their unit. MB are 10^6 bytes, pp are percentage points. `fp32` is the baseline of every
difference and ratio. What could not be measured is absent, and its reason stands under `unavailable`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant import files
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import statistics
from vitquant.measure.statistics import Estimate, hits
from vitquant.params import Params, Report
from vitquant.report.consistency import check_artifact, check_machines, check_predictions
from vitquant.report.tables import batch_sizes
from vitquant.report.text import interval_key

BASELINE = "fp32"
HALVES = ("bf16-compiled", "fp16-compiled")  # what 8 bits have to beat: the first that was measured
MB = 1e6


@dataclass(frozen=True)
class Inputs:
    """Where the stages before left their results."""

    data: Path
    accuracy: Path
    predictions: Path
    benchmark: Path
    profile: Path
    cuda: Path


def join(params: Params, inputs: Inputs, logits: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        logits: what `read_logits` gives.

    Raises:
        VitquantError: a result is missing or unreadable, results do not belong together, or the baseline itself
            could not be measured.
    """
    prepared = Prepared(inputs.data)
    labels = prepared.labels("val")
    benchmark = files.read_json(inputs.benchmark)
    if "unavailable" in benchmark["recipes"][BASELINE]:
        reason = benchmark["recipes"][BASELINE]["unavailable"]
        raise VitquantError(f"{BASELINE}, the baseline of every ratio, could not be benchmarked: {reason}")
    environments = {inputs.benchmark: benchmark["environment"]}
    recipes: dict[str, Any] = {}
    for name in params.recipes:
        recipe, unavailable = {}, {}
        accuracy_file = inputs.accuracy / f"{name}.json"
        accuracy = files.read_json(accuracy_file)
        speed = benchmark["recipes"].get(name, {"unavailable": "not in the benchmark"})
        environments[accuracy_file] = accuracy.get("environment", {})
        check_artifact(accuracy_file, accuracy, inputs.benchmark, speed)
        if "unavailable" in accuracy:
            unavailable["accuracy"] = accuracy["unavailable"]
        else:
            predictions_file = inputs.predictions / f"{name}.npz"
            check_predictions(accuracy_file, accuracy, predictions_file, logits[name], labels, len(prepared.classes))
            recipe.update({key: value for key, value in accuracy.items() if key.startswith("top")})
            recipe["accuracy_device"] = accuracy["device"]
            if len(prepared.classes) <= 5:  # noqa: PLR2004
                unavailable["top5"] = f"top-5 of {len(prepared.classes)} classes is always 100 %"
            if name != BASELINE and logits[BASELINE].size:
                recipe.update(paired_accuracy(logits[name], logits[BASELINE], labels, params.report))
        if "unavailable" in speed:
            unavailable["benchmark"] = speed["unavailable"]
        else:
            recipe.update(speed_and_size(name, benchmark["recipes"], params.report))
        recipes[name] = {**recipe, **({"unavailable": unavailable} if unavailable else {})}
    check_machines(environments)
    return {
        "study": study(params, prepared),
        "environment": benchmark["environment"],
        "recipes": recipes,
    }


def study(params: Params, prepared: Prepared) -> dict[str, Any]:
    """What was studied."""
    return {
        "name": params.study,
        "model": params.model.name,
        "data": params.data.source,
        "eval_images": len(prepared.labels("val")),
        "classes": len(prepared.classes),
    }


def summary(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    """results/summary.json, what `dvc metrics diff` shows: per recipe top-1, speed-up and size, rounded."""
    first = min(batch_sizes(metrics))
    keys = {"top1_pct": 2, f"speedup_b{first}_x": 1, "size_mb": 1}
    return {
        name: {key: round(recipe[key], digits) for key, digits in keys.items() if key in recipe}
        for name, recipe in metrics["recipes"].items()
    }


def plots(metrics: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """results/plots/<name>.json, what `dvc plots` draws: a value and its interval per recipe that has them."""
    keys = {"accuracy": "top1_delta_pp", "speedup": f"speedup_b{min(batch_sizes(metrics))}_x"}
    return {
        plot: [
            {
                "recipe": name,
                "value": recipe[key],
                "low": recipe[interval_key(key)][0],
                "high": recipe[interval_key(key)][1],
            }
            for name, recipe in metrics["recipes"].items()
            if key in recipe
        ]
        for plot, key in keys.items()
    }


def read_logits(params: Params, folder: Path) -> dict[str, NDArray[np.float32]]:
    """The predictions of every recipe over the validation split, (N, C); (0, 0) where there are none.

    Raises:
        VitquantError: a file is missing or unreadable.
    """
    return {name: _read_logits(folder / f"{name}.npz") for name in params.recipes}


def _read_logits(path: Path) -> NDArray[np.float32]:
    try:
        with np.load(path) as content:
            return np.asarray(content["logits"], dtype=np.float32)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise VitquantError(f"{path} cannot be read ({error}): run `dvc repro`") from None


def paired_accuracy(
    logits: NDArray[np.float32], baseline: NDArray[np.float32], labels: NDArray[np.int64], params: Report
) -> dict[str, Any]:
    """Differences to the baseline over the same images; logits are float32 (N, C), labels int64 (N,)."""
    result: dict[str, Any] = {}
    for k in (1, 5):
        if k < logits.shape[1]:
            ours, theirs = hits(logits, labels, k), hits(baseline, labels, k)
            delta = statistics.paired_difference(ours, theirs, params.resamples, params.seed)
            result |= {
                f"top{k}_delta_pp": round(delta.value, 2),
                f"top{k}_delta_ci95_pp": _interval(delta, 2),
            }
    result["mcnemar_p"] = round(statistics.mcnemar_p(hits(logits, labels, 1), hits(baseline, labels, 1)), 4)
    result["agreement_pct"] = round(100 * float(np.mean(logits.argmax(axis=1) == baseline.argmax(axis=1))), 2)
    return result


def speed_and_size(name: str, benchmark: dict[str, Any], params: Report) -> dict[str, Any]:
    """Latency, throughput, memory and size of a recipe, and their ratios to others of the same run, `benchmark`."""
    own, baseline = benchmark[name], benchmark[BASELINE]
    half = next((half for half in HALVES if "latency_ms" in benchmark.get(half, {})), HALVES[0])
    result: dict[str, Any] = {}
    for size, milliseconds in own["latency_ms"].items():
        spread = statistics.distribution(np.array(milliseconds))
        result |= {f"latency_b{size}_ms_{key}": round(spread[key], 2) for key in ("p50", "p90", "p99")}
        result[f"latency_b{size}_cv_pct"] = round(spread["cv_pct"], 2)
        result[f"throughput_b{size}_img_s"] = round(1000 * int(size) / spread["p50"], 2)
        mean = statistics.mean(np.array(milliseconds), params.resamples, params.seed)
        result |= {
            f"latency_b{size}_mean_ms": round(mean.value, 2),
            f"latency_b{size}_mean_ci95_ms": _interval(mean, 2),
        }
        for key, reference in (("speedup", BASELINE), (f"vs_{half.replace('-', '_')}", half)):
            times = benchmark.get(reference, {}).get("latency_ms", {}).get(size)
            if times is not None and name not in (reference, BASELINE):
                ratio = statistics.paired_ratio(np.array(times), np.array(milliseconds), params.resamples, params.seed)
                result |= {
                    f"{key}_b{size}_x": round(ratio.value, 3),
                    f"{key}_b{size}_ci95_x": _interval(ratio, 3),
                }
    result["memory_model_mb"] = round(own["memory_bytes"]["model"] / MB, 1)
    result["memory_peak_mb"] = round(own["memory_bytes"]["peak"] / MB, 1)
    result["size_mb"] = round(own["size_bytes"] / MB, 2)
    if name != BASELINE:
        result["size_reduction_pct"] = round(100 * (1 - own["size_bytes"] / baseline["size_bytes"]), 2)
    return result


def _interval(estimate: Estimate, decimals: int) -> list[float]:
    return [round(estimate.low, decimals), round(estimate.high, decimals)]
