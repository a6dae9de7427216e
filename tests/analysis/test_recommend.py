"""The best recipe within a budget, and what is said of it."""

import math
from typing import Any

import handmade
import pytest
from handmade import BF16_COMPILED, INT8, INT8_COMPILED

from vitquant.analysis import recommend as analysis
from vitquant.analysis.findings import Accuracy, Estimate, Footprint, Recipe, Speed, Study
from vitquant.errors import VitquantError
from vitquant.report import recommendation
from vitquant.traits import FP32, Traits


def recipe(traits: Traits, delta: float, interval: list[float], speedup: float, memory: float, size: float) -> Recipe:
    """The baseline's delta and speed-up are not there."""
    is_fp32 = traits == FP32
    top1 = Estimate(value=75.71 + delta, low=73.0 + delta, high=78.2 + delta, unit="%")
    difference = Estimate(value=delta, low=interval[0], high=interval[1], unit="pp")
    ratio = Estimate(value=speedup, low=speedup - 0.1, high=speedup + 0.1, unit="×")

    def speed(milliseconds: float) -> Speed:
        p50 = round(milliseconds / speedup, 2)
        return Speed(
            p50_ms=p50, p90_ms=p50, p99_ms=p50, spread_pct=1.0, images_per_s=1.0, speedup=None if is_fp32 else ratio
        )

    return Recipe(
        traits=traits,
        accuracy=Accuracy(device="cpu", top1=top1, top1_delta=None if is_fp32 else difference),
        speeds={1: speed(82.0), 8: speed(600.0)},
        footprint=Footprint(memory_model_mb=memory, memory_peak_mb=memory, size_mb=size),
    )


@pytest.fixture
def study() -> Study:
    """Fast and lossy, small and nearly exact, exact but large, and one that this machine cannot run."""
    return handmade.study().model_copy(
        update={
            "recipes": {
                "fp32": recipe(FP32, 0.0, [0.0, 0.0], 1.0, 122.7, 86.56),
                "lossy": recipe(INT8, -1.71, [-3.43, 0.0], 3.6, 140.0, 23.1),
                "near": recipe(INT8, -0.29, [-1.24, 0.67], 2.6, 90.0, 22.9),
                "exact": recipe(BF16_COMPILED, 0.0, [-0.1, 0.1], 1.4, 155.0, 86.6),
                "absent": Recipe(traits=INT8, unavailable={"accuracy": "no AVX-512", "benchmark": "no AVX-512"}),
            }
        }
    )


def recommend(study: Study, max_drop: float, batch: int, objective: Any) -> str:
    return recommendation.text(analysis.recommend(study, max_drop, batch, objective), study)


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
def test_the_best_within_the_budget(study: Study, max_drop: float, objective, name: str) -> None:
    assert recommend(study, max_drop, 8, objective).startswith(f"{name}: the best {objective} of the recipes")


def test_the_numbers_and_their_intervals(study: Study) -> None:
    assert recommend(study, 0.3, 8, "latency").splitlines() == [
        "near: the best latency of the recipes that lose at most 0.3 pp of top-1",
        "  top-1    75.42 % [72.71, 77.91], -0.29 pp [-1.24, +0.67] to fp32",
        "  latency  230.8 ms per batch of 8",
        "           2.60 × [2.50, 2.70] as fast as fp32, PyTorch eager",
        "  memory   90.0 MB at peak, fp32 122.7",
        "  size     22.9 MB, fp32 86.6",
        "  brackets: 95 % intervals; 1050 validation images",
        "Not certain: the interval reaches -1.24 pp, beyond the budget of -0.3 pp; "
        "1050 images do not exclude a larger loss.",
    ]


def test_certain_where_the_whole_interval_is_within_the_budget(study: Study) -> None:
    assert "Not certain" not in recommend(study, 0.1, 1, "latency")
    assert "Not certain" in recommend(study, 0.09, 1, "latency")


def test_fp32_where_nothing_within_the_budget_is_better(study: Study) -> None:
    text = recommend(study, 0.1, 1, "memory")
    assert text.startswith("fp32: ")
    assert text.endswith("No quantized recipe within the budget has a better memory.")
    assert "pp [" not in text


def test_a_recipe_without_the_measurement_does_not_win(study: Study) -> None:
    near = study.recipes["near"].model_copy(update={"speeds": {}, "footprint": None})
    study = handmade.with_recipe(study, "near", near)
    assert recommend(study, 0.3, 8, "latency").startswith("exact: ")
    assert recommend(study, 0.3, 8, "memory").startswith("fp32: ")
    only_batch_1 = study.recipes["exact"].model_copy(update={"speeds": {1: study.recipes["exact"].at(1)}})
    study = handmade.with_recipe(study, "exact", only_batch_1)
    assert recommend(study, 0.3, 1, "latency").startswith("exact: ")
    assert recommend(study, 0.3, 8, "latency").startswith("fp32: ")


def test_none_within_the_budget(study: Study) -> None:
    with pytest.raises(VitquantError) as error:
        recommend(handmade.with_recipe(study, "exact", None), 0.1, 8, "latency")
    assert str(error.value) == "no recipe loses at most 0.1 pp of top-1: stay with fp32; the closest is near, -0.29 pp"


def without_accuracy(study: Study) -> Study:
    for name, own in study.recipes.items():
        reason = {"accuracy": "the head was never trained"}
        study = handmade.with_recipe(study, name, own.model_copy(update={"accuracy": None, "unavailable": reason}))
    return study


def test_a_study_without_accuracy(study: Study) -> None:
    with pytest.raises(VitquantError, match="accuracy was not measured, .*: the head was never trained"):
        recommend(without_accuracy(study), 0.3, 8, "latency")
    assert analysis.recommended(without_accuracy(study)) is None


def test_the_answer_is_about_the_recommended_recipe_or_else_the_fastest_quantized_one(study: Study) -> None:
    assert (analysis.recommended(study), analysis.subject(study)) == ("near", "near")
    lossless = handmade.with_recipe(study, "near", None)
    assert (analysis.recommended(lossless), analysis.subject(lossless)) == ("exact", "lossy")  # exact has 16 bits
    assert analysis.subject(without_accuracy(study)) == "lossy"
    unquantized = handmade.with_recipe(handmade.with_recipe(lossless, "lossy", None), "absent", None)
    assert analysis.subject(unquantized) is None
    assert analysis.marked(unquantized) == []


def test_the_answers_recipe_and_the_seeds_are_looked_into(study: Study) -> None:
    assert analysis.marked(study) == ["near"]
    with_seeds = handmade.with_recipe(study, "dynamic-int8", recipe(INT8_COMPILED, -5.0, [-6.0, -4.0], 9.0, 1.0, 1.0))
    assert analysis.marked(with_seeds) == ["near", "dynamic-int8"]


@pytest.mark.parametrize(
    ("max_drop", "batch", "message"),
    [
        (-0.3, 8, "--max-drop: -0.3 is no loss: give percentage points"),
        (math.nan, 8, "--max-drop: nan is no loss"),
        (0.3, 5, "--batch: 5 was not measured, 1, 8 were: add it to benchmark.batches"),
    ],
)
def test_arguments_that_make_no_sense(study: Study, max_drop: float, batch: int, message: str) -> None:
    with pytest.raises(VitquantError) as error:
        recommend(study, max_drop, batch, "latency")
    assert str(error.value).startswith(message)


def with_cosines(study: Study, **cosines: float) -> Study:
    """The study with the cosine of some recipes' embeddings to FP32's."""
    for name, cosine in cosines.items():
        own = study.recipes[name]
        assert own.accuracy
        update = {
            "class_token_mean_cosine": (1 + cosine) / 2,
            "class_token_p1_cosine": cosine,
            "class_token_least_cosine": cosine - 0.01,
        }
        accuracy = own.accuracy.model_copy(update=update)
        study = handmade.with_recipe(study, name, own.model_copy(update={"accuracy": accuracy}))
    return study


@pytest.mark.parametrize(
    ("max_drop", "min_cosine", "name"),
    [
        (None, 0.9, "lossy"),
        (None, 0.91, "near"),
        (0.3, 0.9, "near"),
        (0.1, 0.9, "exact"),
        (None, 0.9999, "exact"),
    ],
)
def test_the_best_that_is_near_enough(study: Study, max_drop: float | None, min_cosine: float, name: str) -> None:
    near = with_cosines(study, lossy=0.9, near=0.99, exact=0.9999)
    chosen = analysis.recommend(near, max_drop, 8, "latency", min_cosine)
    assert chosen.name == name
    text = recommendation.text(chosen, near)
    assert f"keep a cosine of {min_cosine:g} to fp32's embeddings at 99 of 100 images" in text
    assert ("lose at most" in text) == (max_drop is not None)
    if name == "near":
        assert "  cosine   0.9950 on average, 0.9900 at the 1st percentile, 0.9800 at least" in text.splitlines()


@pytest.mark.parametrize(
    ("max_drop", "min_cosine", "message"),
    [
        (None, None, "give --max-drop, the top-1 that may be lost, or --min-cosine"),
        (None, 1.5, "--min-cosine: 1.5 is no cosine"),
        (None, math.nan, "--min-cosine: nan is no cosine"),
        (None, 1.0, "no recipe has a cosine of 1 at 99 of 100 images: stay with fp32; the closest is exact, 0.9999"),
        (0.29, 0.995, "no recipe has a cosine of 0.995 .* the closest is near, 0.9900"),
    ],
)
def test_cosines_that_none_has(study: Study, max_drop: float | None, min_cosine: float | None, message: str) -> None:
    near = with_cosines(study, lossy=0.9, near=0.99, exact=0.9999)
    if max_drop:
        near = handmade.with_recipe(near, "exact", None)
    with pytest.raises(VitquantError, match=message):
        analysis.recommend(near, max_drop, 8, "latency", min_cosine)


def test_a_study_without_cosines(study: Study) -> None:
    with pytest.raises(VitquantError, match="no cosine to FP32's embeddings was measured"):
        analysis.recommend(study, None, 8, "latency", 0.9)


def test_a_study_of_embeddings_is_judged_by_its_neighbours(study: Study) -> None:
    facts = study.facts.model_copy(update={"embedding": "class"})
    text = recommend(study.model_copy(update={"facts": facts}), 0.3, 8, "latency")
    assert text.startswith("near: the best latency of the recipes that lose at most 0.3 pp of k-NN top-1\n")
