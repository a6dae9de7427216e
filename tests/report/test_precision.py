import handmade

from vitquant.report import precision


def test_wide_intervals_are_said_to_be_wide() -> None:
    study = handmade.with_delta(handmade.study(), "vitquant-int8", 0.1, -2.9, 3.1)
    study = handmade.with_speedup(study, "vitquant-int8", 4.0, 3.0, 5.0)
    said = precision.sentence(study)
    assert said.startswith("1,050 images and 1 launch: at worst differences in top-1 to ±3.0 pp")
    assert "speeds against fp32 to ±25 % (95 % intervals)" in said
    assert "These intervals are wide" in said


def test_narrow_ones_are_not() -> None:
    study = handmade.study()
    for name, recipe in study.recipes.items():
        if recipe.top1_delta:
            study = handmade.with_delta(study, name, 0.0, -0.4, 0.4)
    assert "wide" not in precision.sentence(study)
