import math
from pathlib import Path

import pytest

from vitquant import files
from vitquant.errors import VitquantError
from vitquant.report.metrics import read
from vitquant.report.recommend import recommend


def recipe(delta: float, interval: list[float], speedup: float, memory: float, size: float) -> dict:
    return {
        "top1_pct": 75.71 + delta,
        "top1_ci95_pct": [73.0 + delta, 78.2 + delta],
        "top1_delta_pp": delta,
        "top1_delta_ci95_pp": interval,
        "latency_b1_ms_p50": round(82.0 / speedup, 2),
        "latency_b8_ms_p50": round(600.0 / speedup, 2),
        "speedup_b1_x": speedup,
        "speedup_b1_ci95_x": [speedup - 0.1, speedup + 0.1],
        "speedup_b8_x": speedup,
        "speedup_b8_ci95_x": [speedup - 0.1, speedup + 0.1],
        "memory_peak_mb": memory,
        "size_mb": size,
    }


@pytest.fixture
def metrics() -> dict:
    """Fast and lossy, small and nearly exact, exact but large, and one that this machine cannot run."""
    fp32 = recipe(0.0, [0.0, 0.0], 1.0, 122.7, 86.56)
    fp32 = {key: value for key, value in fp32.items() if "delta" not in key and "speedup" not in key}
    return {
        "study": {"name": "sample", "eval_images": 1050},
        "recipes": {
            "fp32": fp32,
            "lossy": recipe(-1.71, [-3.43, 0.0], 3.6, 140.0, 23.1),
            "near": recipe(-0.29, [-1.24, 0.67], 2.6, 90.0, 22.9),
            "exact": recipe(0.0, [-0.1, 0.1], 1.4, 155.0, 86.6),
            "absent": {"unavailable": {"accuracy": "no AVX-512", "benchmark": "no AVX-512"}},
        },
    }


@pytest.mark.parametrize(
    ("max_drop", "objective", "name"),
    [
        (0.3, "latency", "near"),
        (0.3, "size", "near"),
        (0.3, "memory", "near"),
        (0.29, "latency", "near"),  # the budget itself is within it
        (0.28, "latency", "exact"),
        (0.0, "memory", "fp32"),  # `exact` takes more
        (5.0, "latency", "lossy"),
        (5.0, "memory", "near"),
    ],
)
def test_the_best_within_the_budget(metrics: dict, max_drop: float, objective, name: str) -> None:
    assert recommend(metrics, max_drop, 8, objective).startswith(f"{name}: the best {objective} of the recipes")


def test_the_numbers_and_their_intervals(metrics: dict) -> None:
    assert recommend(metrics, 0.3, 8, "latency").splitlines() == [
        "near: the best latency of the recipes that lose at most 0.3 pp of top-1",
        "  top-1    75.42 % [72.71, 77.91], -0.29 pp [-1.24, +0.67] to fp32",
        "  latency  230.8 ms per batch of 8, 2.60 × [2.50, 2.70] as fast as fp32",
        "  memory   90.0 MB at peak, fp32 122.7",
        "  size     22.9 MB, fp32 86.6",
        "  brackets: 95 % intervals; 1050 validation images",
        "Not certain: the interval reaches -1.24 pp, beyond the budget of -0.3 pp; "
        "1050 images do not exclude a larger loss.",
    ]


def test_certain_where_the_whole_interval_is_within_the_budget(metrics: dict) -> None:
    assert "Not certain" not in recommend(metrics, 0.1, 1, "latency")
    assert "Not certain" in recommend(metrics, 0.09, 1, "latency")


def test_fp32_where_nothing_within_the_budget_is_better(metrics: dict) -> None:
    text = recommend(metrics, 0.1, 1, "memory")
    assert text.startswith("fp32: ")
    assert text.endswith("No quantized recipe within the budget has a better memory.")
    assert "pp [" not in text


def test_a_recipe_without_the_measurement_does_not_win(metrics: dict) -> None:
    for key in list(metrics["recipes"]["near"]):
        if key.startswith(("latency", "speedup", "memory", "size")):
            del metrics["recipes"]["near"][key]
    assert recommend(metrics, 0.3, 8, "latency").startswith("exact: ")


def test_none_within_the_budget(metrics: dict) -> None:
    del metrics["recipes"]["exact"]
    with pytest.raises(VitquantError) as error:
        recommend(metrics, 0.1, 8, "latency")
    assert str(error.value) == "no recipe loses at most 0.1 pp of top-1: stay with fp32; the closest is near, -0.29 pp"


def test_a_study_without_accuracy(metrics: dict) -> None:
    for name, content in metrics["recipes"].items():
        metrics["recipes"][name] = {key: value for key, value in content.items() if not key.startswith("top1")}
    metrics["recipes"]["fp32"]["unavailable"] = {"accuracy": "the head was never trained"}
    with pytest.raises(VitquantError, match="accuracy was not measured, .*: the head was never trained"):
        recommend(metrics, 0.3, 8, "latency")


@pytest.mark.parametrize(
    ("max_drop", "batch", "message"),
    [
        (-0.3, 8, "--max-drop: -0.3 is no loss: give percentage points"),
        (math.nan, 8, "--max-drop: nan is no loss"),
        (0.3, 5, "--batch: 5 was not measured, 1, 8 were: add it to benchmark.batches"),
    ],
)
def test_arguments_that_make_no_sense(metrics: dict, max_drop: float, batch: int, message: str) -> None:
    with pytest.raises(VitquantError) as error:
        recommend(metrics, max_drop, batch, "latency")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("content", [{}, [], {"recipes": {}}, {"recipes": {"near": {}}}])
def test_metrics_of_another_form(content: object, tmp_path: Path) -> None:
    files.write_json(tmp_path / "metrics.json", content)
    with pytest.raises(VitquantError, match="metrics.json is not of a study: make it again with `dvc repro`"):
        read(tmp_path / "metrics.json")
