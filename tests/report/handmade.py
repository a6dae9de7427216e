"""Studies made by hand, for tests to look at: results/ changes with every run."""

from pathlib import Path
from typing import Any

import numpy as np

from vitquant import files
from vitquant.data.prepared import Prepared
from vitquant.measure import accuracy
from vitquant.report.metrics import Inputs
from vitquant.traits import FP32, Traits

BF16_COMPILED = Traits(
    weight_bits=16, activation_bits=16, arithmetic="bfloat16", execution="compiled", devices=("cpu", "cuda")
)
INT8 = Traits(weight_bits=8, activation_bits=8, arithmetic="int8", execution="eager", devices=("cpu",))
INT8_COMPILED = INT8.model_copy(update={"execution": "compiled"})
ENVIRONMENT = {
    "host": "attic",
    "cpu": "Abacus",
    "isa": ["beads"],
    "cores": 2,
    "threads": 2,
    "memory_gb": 1,
    "python": "3.11.7",
    "torch": "2.14.0",
    "torchvision": "0.29.0",
    "git_commit": "0" * 40,
}
SIZES = (1, 8, 32)  # of a batch, in `metrics`
FP32_TOP1, FP32_MS, BF16_SPEEDUP = 76.0, 80.0, 2.0  # %; milliseconds per image; times FP32's speed
PASSES_MS = [100.0, 110.0, 90.0, 105.0]  # of FP32 at batch 1, in `stages`


def metrics() -> dict[str, Any]:
    """What metrics.json is: the seed's recipe loses top-1 beyond its interval, `vitquant-int8` is fastest and right."""
    return {
        "study": {
            "name": "sample",
            "model": "vit_small_patch14_dinov2",
            "data": "elpv",
            "eval_images": 1050,
            "classes": 8,
        },
        "environment": dict(ENVIRONMENT),
        "recipes": {
            "fp32": alone(FP32, FP32_TOP1, FP32_MS, size_mb=86.6, peak_mb=123.0),
            "bf16-compiled": recipe(BF16_COMPILED, BF16_SPEEDUP, delta=0.2, size_mb=43.3, peak_mb=89.0),
            "dynamic-int8": recipe(INT8, speedup=2.4, delta=-1.7, size_mb=22.9, peak_mb=86.0),
            "static-int8": recipe(INT8, speedup=2.8, delta=-1.4, size_mb=23.0, peak_mb=50.0),
            "openvino-int8-static": recipe(INT8_COMPILED, speedup=3.2, delta=-0.9, size_mb=23.1, peak_mb=146.0),
            "vitquant-int8": recipe(INT8_COMPILED, speedup=3.7, delta=0.2, size_mb=23.1, peak_mb=75.0),
        },
    }


def alone(traits: Traits, top1: float, milliseconds: float, size_mb: float, peak_mb: float) -> dict[str, Any]:
    """What metrics.json says of a recipe without comparing it: all that it says of fp32.

    Args:
        milliseconds: per image, whatever the batch size.
    """
    result = {
        "traits": traits.model_dump(mode="json"),
        "top1_pct": top1,
        "top1_ci95_pct": [top1 - 2.5, top1 + 2.5],
        "top5_pct": 99.5,
        "top5_ci95_pct": [99.0, 99.8],
        "accuracy_device": "cpu",
        "memory_model_mb": peak_mb - 1,
        "memory_peak_mb": peak_mb,
        "size_mb": size_mb,
    }
    for size in SIZES:
        time = milliseconds * size
        result |= {
            f"latency_b{size}_ms_{key}": factor * time for key, factor in (("p50", 1), ("p90", 1.2), ("p99", 1.4))
        }
        result |= {f"latency_b{size}_mean_ms": time, f"latency_b{size}_mean_ci95_ms": [0.95 * time, 1.05 * time]}
        result |= {f"latency_b{size}_cv_pct": 4.0, f"throughput_b{size}_img_s": 1000 / milliseconds}
    return result


def recipe(traits: Traits, speedup: float, delta: float, size_mb: float, peak_mb: float) -> dict[str, Any]:
    """What metrics.json says of a recipe beside fp32.

    Args:
        speedup: times FP32's speed, whatever the batch size.
        delta: top-1 less FP32's, pp; its interval reaches 0.4 to either side.
    """
    result = alone(traits, FP32_TOP1 + delta, FP32_MS / speedup, size_mb, peak_mb) | {
        "top1_delta_pp": delta,
        "top1_delta_ci95_pp": [delta - 0.4, delta + 0.4],
        "top5_delta_pp": 0.0,
        "top5_delta_ci95_pp": [-0.1, 0.1],
        "mcnemar_p": 0.5,
        "agreement_pct": 96.0,
        "size_reduction_pct": 100 * (1 - size_mb / 86.6),
    }
    ratios = {"speedup": speedup} | ({"vs_bf16_compiled": speedup / BF16_SPEEDUP} if traits != BF16_COMPILED else {})
    for size in SIZES:
        for key, ratio in ratios.items():
            result |= {f"{key}_b{size}_x": ratio, f"{key}_b{size}_ci95_x": [0.98 * ratio, 1.02 * ratio]}
    return result


def stages(prepared: Prepared, folder: Path, int8: str = "dynamic-int8") -> Inputs:
    """What the stages before the report leave, below `folder`, of fp32 and a recipe called `int8`.

    FP32 is right on 20 of 24 images; INT8 loses two of those, gains none, and is 2.5 times as fast.
    """
    labels = prepared.labels("val")
    inputs = Inputs(
        data=prepared.path,
        accuracy=folder / "accuracy",
        predictions=folder / "predictions",
        benchmark=folder / "benchmark.json",
        profile=folder / "profile.json",
        cuda=folder / "cuda",
    )
    for name, right, traits in (("fp32", 20, FP32), (int8, 18, INT8)):
        predicted = np.where(np.arange(24) < right, labels, (labels + 1) % 6)
        logits = np.eye(6, dtype=np.float32)[predicted] + 0.5 * np.eye(6, dtype=np.float32)[labels]
        write_accuracy(inputs, name, traits, logits, labels)
    files.write_json(
        inputs.benchmark,
        {
            "environment": ENVIRONMENT,
            "recipes": {
                "fp32": {
                    "traits": FP32.model_dump(mode="json"),
                    "latency_ms": {"1": PASSES_MS, "8": [8 * ms for ms in PASSES_MS]},
                    "memory_bytes": {"model": 100_000_000, "peak": 120_000_000},
                    "size_bytes": 80_000_000,
                },
                int8: {
                    "traits": INT8.model_dump(mode="json"),
                    "latency_ms": {"1": [ms / 2.5 for ms in PASSES_MS], "8": [4 * ms for ms in PASSES_MS]},
                    "memory_bytes": {"model": 50_000_000, "peak": 60_000_000},
                    "size_bytes": 20_000_000,
                },
            },
        },
    )
    return inputs


def write_accuracy(inputs: Inputs, name: str, traits: Traits, logits: np.ndarray, labels: np.ndarray) -> None:
    """What stage `evaluate` leaves of recipe `name`."""
    summary = {
        "recipe": name,
        "traits": traits.model_dump(mode="json"),
        **accuracy.summarize(logits, labels),
        "device": "cpu",
        "details": {},
    }
    accuracy.write(summary, logits, inputs.accuracy / f"{name}.json", inputs.predictions / f"{name}.npz")
