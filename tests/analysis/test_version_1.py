"""metrics.json of version 1 as a study of today's, to compare with."""

import copy
import json
from typing import Any

import handmade
import pytest
from handmade import ENVIRONMENT, INT8, MACHINE

from vitquant.analysis import version_1
from vitquant.analysis.compare import compare
from vitquant.analysis.findings import Accuracy, Estimate, Footprint, Recipe, Speed, Study
from vitquant.errors import VitquantError
from vitquant.traits import FP32

METRICS: dict[str, Any] = {  # all keys of a committed one
    "study": {
        "name": "sample", "model": "vit_small_patch14_dinov2", "data": "elpv", "eval_images": 1050, "classes": 8,
    },
    "environment": MACHINE.model_dump(mode="json")
    | {"threads": 2, "cpu_capability": "AVX512", "git_commit": "6b4c3f58401cd270e5d9ff6d3edd51eb2db69093"},
    "recipes": {
        "fp32": {
            "traits": FP32.model_dump(mode="json"),
            "top1_pct": 76.67, "top1_ci95_pct": [74.01, 79.12], "top5_pct": 99.81, "top5_ci95_pct": [99.31, 99.95],
            "accuracy_device": "cpu",
            "latency_b1_ms_p50": 100.42, "latency_b1_ms_p90": 113.85, "latency_b1_ms_p99": 115.82,
            "throughput_b1_img_s": 9.96,
            "latency_b1_mean_ms": 98.86, "latency_b1_mean_ci95_ms": [95.78, 101.99],
            "memory_model_mb": 118.9, "memory_peak_mb": 123.3, "size_mb": 86.56,
        },
        "dynamic-int8": {
            "traits": INT8.model_dump(mode="json"),
            "top1_pct": 75.0, "top1_ci95_pct": [72.3, 77.5], "top5_pct": 99.8, "top5_ci95_pct": [99.3, 99.9],
            "accuracy_device": "cuda",
            "top1_delta_pp": -1.67, "top1_delta_ci95_pp": [-3.4, 0.1],
            "top5_delta_pp": 0.0, "top5_delta_ci95_pp": [-0.3, 0.3],
            "mcnemar_p": 0.0912, "agreement_pct": 91.2,
            "latency_b1_ms_p50": 40.0, "latency_b1_ms_p90": 44.0, "latency_b1_ms_p99": 46,
            "throughput_b1_img_s": 25.0,
            "latency_b1_mean_ms": 40.1, "latency_b1_mean_ci95_ms": [39.0, 41.0],
            "speedup_b1_x": 2.5, "speedup_b1_ci95_x": [2.4, 2.6],
            "vs_bf16_compiled_b1_x": 1.2, "vs_bf16_compiled_b1_ci95_x": [1.1, 1.3],
            "latency_b32_ms_p50": 1300.0, "latency_b32_ms_p90": 1350.0, "latency_b32_ms_p99": 1400.0,
            "throughput_b32_img_s": 24.6,
            "latency_b32_mean_ms": 1310.0, "latency_b32_mean_ci95_ms": [1290.0, 1330.0],
            "memory_model_mb": 80.0, "memory_peak_mb": 86.0, "size_mb": 22.9, "size_reduction_pct": 73.54,
            "unavailable": {"all but the first batches": "too slow here"},
        },
        "absent": {"traits": INT8.model_dump(mode="json"), "unavailable": {"benchmark": "no VNNI"}},
    },
}  # fmt: skip


def convert(content: Any) -> Study:
    return version_1.convert(content, "metrics.json", "name another commit")


def estimate(value: float, low: float, high: float, unit: Any) -> Estimate:
    return Estimate(value=value, low=low, high=high, unit=unit)


def test_every_value_has_its_place() -> None:
    study = convert(METRICS)
    assert study.facts == handmade.FACTS.model_copy(update={"crop": None})
    assert study.environment == ENVIRONMENT.model_copy(
        update={"cpu_capability": "AVX512", "git_commit": "6b4c3f58401cd270e5d9ff6d3edd51eb2db69093"}
    )
    assert list(study.recipes) == ["fp32", "dynamic-int8", "absent"]
    assert study.recipes["dynamic-int8"] == Recipe(
        traits=INT8,
        accuracy=Accuracy(
            device="cuda",
            top1=estimate(75.0, 72.3, 77.5, "%"),
            top5=estimate(99.8, 99.3, 99.9, "%"),
            top1_delta=estimate(-1.67, -3.4, 0.1, "pp"),
            top5_delta=estimate(0.0, -0.3, 0.3, "pp"),
            mcnemar_p=0.0912,
            agreement_pct=91.2,
        ),
        speeds={
            1: Speed(
                p50_ms=40.0,
                p90_ms=44.0,
                p99_ms=46.0,
                mean=estimate(40.1, 39.0, 41.0, "ms"),
                images_per_s=25.0,
                speedup=estimate(2.5, 2.4, 2.6, "×"),
            ),
            32: Speed(
                p50_ms=1300.0,
                p90_ms=1350.0,
                p99_ms=1400.0,
                mean=estimate(1310.0, 1290.0, 1330.0, "ms"),
                images_per_s=24.6,
            ),
        },
        footprint=Footprint(memory_model_mb=80.0, memory_peak_mb=86.0, size_mb=22.9, size_reduction_pct=73.54),
        unavailable={"all but the first batches": "too slow here"},
    )
    assert study.recipes["absent"] == Recipe(traits=INT8, unavailable={"benchmark": "no VNNI"})
    fp32 = study.baseline
    assert (fp32.top1_delta, fp32.speedup(1), fp32.at(1).p50_ms) == (None, None, 100.42)


def test_what_was_measured_then_is_compared_with_what_is_measured_now() -> None:
    now = handmade.study()
    comparison = compare(convert(METRICS), now)
    found = {(change.recipe, change.what): change for change in comparison.changes}
    assert list(found) == [
        ("fp32", "peak memory, MB"),
        ("fp32", "size, MB"),
        ("fp32", "top-1, %"),
        ("dynamic-int8", "peak memory, MB"),
        ("dynamic-int8", "size, MB"),
        ("dynamic-int8", "speed-up b1, ×"),  # at batch 32 there was none
        ("dynamic-int8", "Δ top-1, pp"),
    ]
    speedup = found["dynamic-int8", "speed-up b1, ×"]
    assert (speedup.before, speedup.after, speedup.beyond) == (2.5, 2.4, "no")
    assert comparison.only_before == ["absent"]
    assert (comparison.other_study, comparison.other_machine) == ({}, {})  # the crop was not said


@pytest.mark.parametrize("content", [[], {}, None, "x", {"recipes": []}, {"recipes": {"fp32": 1}}, {"recipes": {}}])
def test_what_is_no_metrics_json_is_refused(content: Any) -> None:
    with pytest.raises(VitquantError) as error:
        convert(content)
    assert str(error.value) == "metrics.json is not of a study: name another commit"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("study", "classes"), "<b>", "facts.classes: Input should be a valid integer (got '<b>')"),
        (("study", "classes"), "8", "facts.classes: Input should be a valid integer (got '8')"),
        (("environment", "cores"), None, "environment.cores: Input should be a valid integer (got None)"),
        (("recipes", "fp32", "size_mb"), "large", "recipes.fp32.footprint.size_mb: Input should be a valid number"),
        (("recipes", "fp32", "top1_ci95_pct"), [1.0], "recipes.fp32.accuracy.top1.low: Input should be a valid number"),
        (("recipes", "fp32", "top1_ci95_pct"), [1, 2, 3], "recipes.fp32.accuracy.top1.low: Input should be a valid"),
        (("recipes", "fp32", "top1_ci95_pct"), [9.0, 1.0], "recipes.fp32.accuracy.top1: 76.67 [9, 1] is no value"),
        (
            ("recipes", "fp32", "throughput_b1_img_s"),
            True,
            "recipes.fp32.speeds.1.images_per_s: Input should be a valid",
        ),
        (("recipes", "fp32", "latency_b1_ms_p90"), float("nan"), "recipes.fp32.speeds.1.p90_ms: Input should be a fin"),
        (("recipes", "dynamic-int8", "accuracy_device"), "moon", "recipes.dynamic-int8.accuracy.device: Input should"),
        (("recipes", "dynamic-int8", "speedup_b1_x"), -1.0, "recipes.dynamic-int8.speeds.1.speedup: -1 [2.4, 2.6] is"),
        (("recipes", "dynamic-int8", "unavailable"), {"a": 1}, "recipes.dynamic-int8.unavailable.a: Input should be"),
    ],
)
def test_a_value_that_does_not_belong_there_is_named(place: tuple[str, ...], value: Any, message: str) -> None:
    content = copy.deepcopy(METRICS)
    *parents, key = place
    inside = content
    for parent in parents:
        inside = inside[parent]
    inside[key] = value
    with pytest.raises(VitquantError) as error:
        convert(json.loads(json.dumps(content)))
    assert str(error.value).startswith(f"metrics.json: {message}")
    assert str(error.value).endswith(": name another commit")
    assert "\n" not in str(error.value)


def test_recipes_without_traits_are_older_than_version_1() -> None:
    content = copy.deepcopy(METRICS)
    del content["recipes"]["fp32"]["traits"]
    with pytest.raises(VitquantError) as error:
        convert(content)
    assert str(error.value) == (
        "metrics.json is older than version 1 of the format, its recipes have no traits: name another commit"
    )
