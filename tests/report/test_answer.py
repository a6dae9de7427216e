"""The answer in five lines: that it follows the numbers, and knows a quantized recipe by its traits."""

import handmade
import pytest

from vitquant.analysis import findings
from vitquant.analysis.findings import Findings, Study
from vitquant.analysis.recommend import marked, recommended, subject
from vitquant.params import Recipe
from vitquant.recipes import check_options, method
from vitquant.report import answer
from vitquant.traits import FP32, Traits


@pytest.fixture
def study() -> Study:
    return handmade.study()


def alone(study: Study, recipes: dict[str, findings.Recipe]) -> Study:
    """FP32 and these recipes, without compiled BF16."""
    return handmade.with_rivals(study.model_copy(update={"recipes": {"fp32": study.baseline, **recipes}}))


def answered(study: Study) -> str:
    return answer.answer(Findings(study=study))


def traits(**options: object) -> Traits:
    """Those of a recipe with these options in params.yaml, as its method declares them."""
    recipe = Recipe.model_validate(options)
    return method(recipe.method).traits(check_options("mine", recipe))


def test_a_difference_within_its_interval_is_no_loss_and_no_gain(study: Study) -> None:
    name = "vitquant-int8"
    for low, high, words in ((-1.0, 0.0, "no difference shown"), (-1.0, -0.1, "a loss"), (0.1, 0.9, "a gain")):
        changed = handmade.with_delta(study, name, 0.2, low, high)
        line = next(line for line in answered(changed).splitlines() if "**Accuracy:**" in line)
        assert f"pp: {words} over the same" in line
    for low, high, words in ((0.9, 1.1, "not distinguishable in speed"), (0.5, 0.95, "slower")):
        rival = findings.Rival(recipe="other", ratio=findings.Estimate(value=0.92, low=low, high=high, unit="×"))
        speeds = {1: study.recipes[name].at(1).model_copy(update={"fastest_other": rival})}
        changed = handmade.with_recipe(study, name, study.recipes[name].model_copy(update={"speeds": speeds}))
        told = f"against `other`, the fastest other recipe, 0.92 [{low:.2f}, {high:.2f}] × at batch 1 ({words});"
        assert told in answered(changed)


def test_the_answer_has_five_lines_and_says_where_the_budget_is_not_certain(study: Study) -> None:
    name = recommended(study)
    assert name
    assert len(answered(study).splitlines()) == 5
    uncertain = answered(handmade.with_delta(study, name, -0.1, -0.5, 0.3))
    assert "1,050 images do not exclude a loss of up to 0.50 pp" in uncertain
    certain = answered(handmade.with_delta(study, name, -0.1, -0.2, 0.1))
    assert "its 95 % interval lies within that bound" in certain


def test_a_recipe_of_any_name_is_quantized_where_its_traits_say_so(study: Study) -> None:
    dynamic = traits(method="dynamic_int8", per_channel=False, keep_float=["head"], engine="auto")
    mine = handmade.recipe(dynamic, speedup=2.0, delta=0.2, size_mb=20.0, peak_mb=80.0)
    study = alone(study, {"mine": mine})
    assert subject(study) == "mine"
    assert marked(study) == ["mine"]
    use, speed, accuracy, memory, others = answered(study).splitlines()
    assert use == (
        "- **Use** `mine`, the fastest at batch 1 of the recipes that lose at most 0.3 pp of top-1; "
        "its 95 % interval lies within that bound."
    )
    assert speed.startswith(
        "- **Speed:** of `mine` against `fp32`, the fastest other recipe, 2.00 [1.96, 2.04] × at batch 1 (faster)"
    )
    assert accuracy.startswith("- **Accuracy:** `mine` differs in top-1 by +0.20")
    assert memory.startswith("- **Memory and size:** `mine` ships 20.0 MB for 86.6 MB")
    assert (
        "0 of 1 lose top-1 beyond the interval; 0 of 1 gain it; 0 differ after Holm's correction for 1 comparisons; "
        "at batch 1 1 of 1 are faster than the best floating-point recipe, `fp32`; 1 of 1 are faster than `fp32`"
    ) in others


def test_a_quantized_recipe_of_any_name_is_the_subject_beside_a_faster_one_that_is_not(study: Study) -> None:
    """Each is called what the other is."""
    dynamic = traits(method="dynamic_int8", per_channel=False, keep_float=["head"], engine="auto")
    mine = handmade.recipe(dynamic, speedup=2.0, delta=-1.7, size_mb=20.0, peak_mb=80.0)
    int8 = handmade.recipe(FP32, speedup=5.0, delta=0.2, size_mb=86.6, peak_mb=123.0)
    study = alone(study, {"int8-w8a8": int8, "mine": mine})
    assert recommended(study) == "int8-w8a8"
    assert subject(study) == "mine"
    assert marked(study) == ["mine"]
    text = answered(study)
    assert "**Use** `int8-w8a8`, " in text
    assert "that bound. It does not quantize: the next lines are of `mine`, the fastest that does.\n" in text
    assert "1 of 1 lose top-1 beyond the interval (`mine` [-2.10, -1.30] pp); 0 of 1 gain it" in text


def test_a_recipe_is_not_quantized_by_its_name(study: Study) -> None:
    int8 = handmade.recipe(traits(method="fp32"), speedup=2.0, delta=0.2, size_mb=86.6, peak_mb=123.0)
    study = alone(study, {"int8-w8a8": int8})
    assert subject(study) is None
    assert marked(study) == []
    assert answered(study).startswith("- The study has no quantized recipe")


def test_the_rivals_come_first_and_eager_fp32_is_where_people_start(study: Study) -> None:
    speed = answered(study).splitlines()[1]
    ratios = "1.16 [1.13, 1.18]", "1.85 [1.81, 1.89]", "3.70 [3.63, 3.77]"
    other, best_float, start = (f"{ratio} × at batch" for ratio in ratios)
    assert speed == (
        "- **Speed:** of `vitquant-int8` against `openvino-int8-static`, the fastest other recipe, "
        f"{other} 1 (faster), {other} 8 (faster) and {other} 32 (faster); against `bf16-compiled`, the best that does "
        f"not quantize, {best_float} 1 (faster), {best_float} 8 (faster) and {best_float} 32 (faster); against `fp32`, "
        f"PyTorch eager, where people start, {start} 1 (21.6 ms instead of 80.0 ms), {start} 8 (173.0 ms instead of "
        f"640.0 ms) and {start} 32 (691.9 ms instead of 2560.0 ms)."
    )


def test_rivals_that_differ_by_batch_size_are_each_named(study: Study) -> None:
    int8 = study.recipes["vitquant-int8"]
    other = findings.Rival(recipe="other", ratio=handmade.ratio(1.0))
    speeds = int8.speeds | {32: int8.at(32).model_copy(update={"fastest_other": other})}
    changed = handmade.with_recipe(study, "vitquant-int8", int8.model_copy(update={"speeds": speeds}))
    assert (
        "against the fastest other recipe 1.16 [1.13, 1.18] × at batch 1 (`openvino-int8-static`: faster), "
        "1.16 [1.13, 1.18] × at batch 8 (`openvino-int8-static`: faster) and "
        "1.00 [0.98, 1.02] × at batch 32 (`other`: not distinguishable in speed);"
    ) in answered(changed)


def test_what_the_study_could_show_of_the_budget(study: Study) -> None:
    accuracy = answered(study).splitlines()[2]
    assert "A loss of 0.3 pp or more is excluded: of a recipe that loses nothing, 1,050 images" in accuracy
    wide = answered(handmade.with_delta(study, "vitquant-int8", 0.2, -0.5, 0.9)).splitlines()[2]
    assert "A loss of 0.3 pp or more is not excluded: " in wide


def test_the_seeds_recipe_is_told_beside_it(study: Study) -> None:
    seed = "The seed report's recipe, `dynamic-int8`: -1.70 [-2.10, -1.30] pp of top-1 (a loss), 2.40 [2.35, 2.45] ×"
    assert seed in answered(study)


@pytest.mark.parametrize(("p", "number"), [(None, 0), (0.06, 0), (0.05, 1), (0.0, 1)])
def test_what_is_left_after_holms_correction(study: Study, p: float | None, number: int) -> None:
    """A p of 0 is rounded, and the strongest there is."""
    recipe = study.recipes["dynamic-int8"]
    assert recipe.accuracy
    accuracy = recipe.accuracy.model_copy(update={"holm_p": p})
    changed = handmade.with_recipe(study, "dynamic-int8", recipe.model_copy(update={"accuracy": accuracy}))
    assert f"{number} differ after Holm's correction for 5 comparisons" in answered(changed)
