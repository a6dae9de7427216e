"""The estimates of a study, from what was measured: paired differences and ratios with their intervals, by their keys.

Keys carry their unit. MB are 10^6 bytes, pp are percentage points. `fp32` is the baseline of every difference and
ratio.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant import traits
from vitquant.data.prepared import Prepared
from vitquant.measure import statistics
from vitquant.measure.statistics import Estimate, hits
from vitquant.params import BASELINE, Params, Report

MB = 1e6
HALVES = {"bfloat16": "bf16_compiled", "float16": "fp16_compiled"}  # what 8 bits have to beat, and its part of the keys


@dataclass(frozen=True)
class Half:
    """The compiled 16-bit floating-point recipe that ratios are taken to."""

    recipe: str
    key: str
    """As keys have it: `vs_<key>_b1_x`."""


def half_reference(recipes: Mapping[str, dict[str, Any]]) -> Half | None:
    """What 8 bits have to beat: the first compiled BF16 recipe that was timed, else the first in FP16; or None.

    Args:
        recipes: by name, results that carry `traits`.
    """
    for arithmetic, key in HALVES.items():
        for name, result in recipes.items():
            own = traits.of(result)
            compiled = own.execution == "compiled" and not own.quantized and own.arithmetic == arithmetic
            if compiled and any(part.startswith("latency_") for part in result):
                return Half(name, key)
    return None


def study(params: Params, prepared: Prepared) -> dict[str, Any]:
    """What was studied."""
    return {
        "name": params.study,
        "model": params.model.name,
        "data": params.data.source,
        "eval_images": len(prepared.labels("val")),
        "classes": len(prepared.classes),
    }


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
    half = half_reference(benchmark)
    references = [("speedup", BASELINE), *([(f"vs_{half.key}", half.recipe)] if half else [])]
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
        for key, reference in references:
            times = benchmark.get(reference, {}).get("latency_ms", {}).get(size)
            if times is not None and name not in (reference, BASELINE):
                rounds = min(len(times), len(milliseconds))  # the same first ones, where one was too slow for all
                pairs = np.array(times[:rounds]), np.array(milliseconds[:rounds])
                ratio = statistics.paired_ratio(*pairs, params.resamples, params.seed)
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
