"""results/metrics.json: everything the stages measured, joined, with the paired statistics.

Keys carry their unit. MB are 10^6 bytes, pp are percentage points. `fp32` is the baseline of every
difference and ratio. What could not be measured is absent, and its reason stands under `unavailable`.
"""

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
from vitquant.params import Params

BASELINE = "fp32"
MB = 1e6


@dataclass(frozen=True)
class Inputs:
    """Where the stages before left their results."""

    data: Path
    accuracy: Path
    predictions: Path
    benchmark: Path


def join(params: Params, inputs: Inputs) -> dict[str, Any]:
    """The content of metrics.json.

    Raises:
        VitquantError: a result is missing or unreadable, or the baseline itself could not be measured.
    """
    prepared = Prepared(inputs.data)
    labels = prepared.labels("val")
    benchmark = files.read_json(inputs.benchmark)
    logits = {name: _read_logits(inputs.predictions / f"{name}.npz") for name in params.recipes}
    if "unavailable" in benchmark["recipes"][BASELINE]:
        reason = benchmark["recipes"][BASELINE]["unavailable"]
        raise VitquantError(f"{BASELINE}, the baseline of every ratio, could not be benchmarked: {reason}")
    recipes: dict[str, Any] = {}
    for name in params.recipes:
        recipe, unavailable = {}, {}
        accuracy = files.read_json(inputs.accuracy / f"{name}.json")
        if "unavailable" in accuracy:
            unavailable["accuracy"] = accuracy["unavailable"]
        else:
            recipe.update({key: value for key, value in accuracy.items() if key.startswith("top")})
            recipe["accuracy_device"] = accuracy["device"]
            if len(prepared.classes) <= 5:  # noqa: PLR2004
                unavailable["top5"] = f"top-5 of {len(prepared.classes)} classes is always 100 %"
            if name != BASELINE and logits[BASELINE].size:
                recipe.update(_paired_accuracy(logits[name], logits[BASELINE], labels, params))
        speed = benchmark["recipes"].get(name, {"unavailable": "not in the benchmark"})
        if "unavailable" in speed:
            unavailable["benchmark"] = speed["unavailable"]
        else:
            recipe.update(_benchmark(name, speed, benchmark["recipes"][BASELINE], params))
        recipes[name] = {**recipe, **({"unavailable": unavailable} if unavailable else {})}
    return {
        "study": {
            "name": params.study,
            "model": params.model.name,
            "data": params.data.source,
            "eval_images": len(labels),
            "classes": len(prepared.classes),
        },
        "environment": benchmark["environment"],
        "recipes": recipes,
    }


def _read_logits(path: Path) -> NDArray[np.float32]:
    try:
        with np.load(path) as content:
            return np.asarray(content["logits"], dtype=np.float32)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise VitquantError(f"{path} cannot be read ({error}): run `dvc repro`") from None


def _paired_accuracy(
    logits: NDArray[np.float32], baseline: NDArray[np.float32], labels: NDArray[np.int64], params: Params
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for k in (1, 5):
        if k < logits.shape[1]:
            ours, theirs = hits(logits, labels, k), hits(baseline, labels, k)
            delta = statistics.paired_difference(ours, theirs, params.report.resamples, params.report.seed)
            result |= {
                f"top{k}_delta_pp": round(delta.value, 2),
                f"top{k}_delta_ci95_pp": _interval(delta, 2),
            }
    result["mcnemar_p"] = round(statistics.mcnemar_p(hits(logits, labels, 1), hits(baseline, labels, 1)), 4)
    result["agreement_pct"] = round(100 * float(np.mean(logits.argmax(axis=1) == baseline.argmax(axis=1))), 2)
    return result


def _benchmark(name: str, own: dict[str, Any], baseline: dict[str, Any], params: Params) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for size, milliseconds in own["latency_ms"].items():
        spread = statistics.distribution(np.array(milliseconds))
        result |= {f"latency_b{size}_ms_{key}": round(spread[key], 2) for key in ("p50", "p90", "p99")}
        result[f"latency_b{size}_cv_pct"] = round(spread["cv_pct"], 2)
        result[f"throughput_b{size}_img_s"] = round(1000 * int(size) / spread["p50"], 2)
        if name != BASELINE:
            speedup = statistics.paired_ratio(
                np.array(baseline["latency_ms"][size]),
                np.array(milliseconds),
                params.report.resamples,
                params.report.seed,
            )
            result |= {
                f"speedup_b{size}_x": round(speedup.value, 3),
                f"speedup_b{size}_ci95_x": _interval(speedup, 3),
            }
    result["memory_model_mb"] = round(own["memory_bytes"]["model"] / MB, 1)
    result["memory_peak_mb"] = round(own["memory_bytes"]["peak"] / MB, 1)
    result["size_mb"] = round(own["size_bytes"] / MB, 2)
    if name != BASELINE:
        result["size_reduction_pct"] = round(100 * (1 - own["size_bytes"] / baseline["size_bytes"]), 2)
    return result


def _interval(estimate: Estimate, decimals: int) -> list[float]:
    return [round(estimate.low, decimals), round(estimate.high, decimals)]
