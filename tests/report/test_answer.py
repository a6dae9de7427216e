"""The answer in five lines: that it follows the numbers, and knows a quantized recipe by its traits."""

import handmade
import pytest

from vitquant.params import Recipe
from vitquant.recipes import check_options, method
from vitquant.report import answer
from vitquant.traits import FP32, Traits


@pytest.fixture
def metrics() -> dict:
    return handmade.metrics()


def traits(**options: object) -> Traits:
    """Those of a recipe with these options in params.yaml, as its method declares them."""
    recipe = Recipe.model_validate(options)
    return method(recipe.method).traits(check_options("mine", recipe))


def test_a_difference_within_its_interval_is_no_loss_and_no_gain(metrics: dict) -> None:
    name = "vitquant-int8"
    for interval, words in (([-1.0, 0.0], "no difference shown"), ([-1.0, -0.1], "a loss"), ([0.1, 0.9], "a gain")):
        metrics["recipes"][name] |= {"top1_delta_ci95_pp": interval}
        line = next(line for line in answer.answer(metrics, {}).splitlines() if "**Accuracy:**" in line)
        assert f"pp: {words} over the same" in line
    for interval, words in (([0.9, 1.1], "(not distinguishable in speed;"), ([0.5, 0.9], "(slower;")):
        metrics["recipes"][name] |= {"speedup_b1_ci95_x": interval}
        assert words in answer.answer(metrics, {})


def test_the_answer_has_five_lines_and_says_where_the_budget_is_not_certain(metrics: dict) -> None:
    name = answer.recommended(metrics)
    assert name
    assert len(answer.answer(metrics, {}).splitlines()) == 5
    metrics["recipes"][name] |= {"top1_delta_pp": -0.1, "top1_delta_ci95_pp": [-0.5, 0.3]}
    assert "1,050 images do not exclude a loss of up to 0.50 pp" in answer.answer(metrics, {})
    metrics["recipes"][name] |= {"top1_delta_ci95_pp": [-0.2, 0.1]}
    assert "the whole interval is within that bound" in answer.answer(metrics, {})


def test_a_recipe_of_any_name_is_quantized_where_its_traits_say_so(metrics: dict) -> None:
    dynamic = traits(method="dynamic_int8", per_channel=False, keep_float=["head"], engine="auto")
    mine = handmade.recipe(dynamic, speedup=2.0, delta=0.2, size_mb=20.0, peak_mb=80.0)
    metrics["recipes"] = {"fp32": metrics["recipes"]["fp32"], "mine": mine}
    assert answer.subject(metrics) == "mine"
    assert answer.marked(metrics) == ["mine"]
    use, speed, accuracy, memory, others = answer.answer(metrics, {}).splitlines()
    assert use == (
        "- **Use** `mine`, the fastest at batch 1 of the recipes that lose at most 0.3 pp of top-1; "
        "the whole interval is within that bound."
    )
    assert speed.startswith("- **Speed:** `mine` has 2.00 [1.96, 2.04] × the speed of `fp32` at batch 1")
    assert accuracy.startswith("- **Accuracy:** `mine` differs in top-1 by +0.20")
    assert memory.startswith("- **Memory and size:** `mine` ships 20.0 MB for 86.6 MB")
    assert "0 of 1 lose top-1 beyond the interval; 0 of 1 gain it; 1 of 1 are faster than `fp32`" in others


def test_a_quantized_recipe_of_any_name_is_the_subject_beside_a_faster_one_that_is_not(metrics: dict) -> None:
    """Each is called what the other is."""
    dynamic = traits(method="dynamic_int8", per_channel=False, keep_float=["head"], engine="auto")
    mine = handmade.recipe(dynamic, speedup=2.0, delta=-1.7, size_mb=20.0, peak_mb=80.0)
    int8 = handmade.recipe(FP32, speedup=5.0, delta=0.2, size_mb=86.6, peak_mb=123.0)
    metrics["recipes"] = {"fp32": metrics["recipes"]["fp32"], "int8-w8a8": int8, "mine": mine}
    assert answer.recommended(metrics) == "int8-w8a8"
    assert answer.subject(metrics) == "mine"
    assert answer.marked(metrics) == ["mine"]
    text = answer.answer(metrics, {})
    assert "**Use** `int8-w8a8`, " in text
    assert "of top-1; it does not quantize; " in text
    assert "1 of 1 lose top-1 beyond the interval (`mine` [-2.10, -1.30] pp); 0 of 1 gain it" in text


def test_a_recipe_is_not_quantized_by_its_name(metrics: dict) -> None:
    int8 = handmade.recipe(traits(method="fp32"), speedup=2.0, delta=0.2, size_mb=86.6, peak_mb=123.0)
    metrics["recipes"] = {"fp32": metrics["recipes"]["fp32"], "int8-w8a8": int8}
    assert answer.subject(metrics) is None
    assert answer.marked(metrics) == []
    assert answer.answer(metrics, {}).startswith("- The study has no quantized recipe")
