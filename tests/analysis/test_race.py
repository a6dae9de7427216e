"""Whether 8 bits beat 16, batch size by batch size."""

import handmade
from handmade import BF16_COMPILED, INT8_COMPILED, ratio

from vitquant.analysis.findings import Estimate, Recipe, Rival, Study
from vitquant.analysis.race import Winner, race


def study(**int8: dict[int, Estimate]) -> Study:
    """Compiled BF16, recipes of 8 bits by their ratios to it, one of 4 bits that is faster, and BF16 under a name."""
    made = handmade.study()
    others = {name: recipe(ratios) for name, ratios in int8.items()}
    four = recipe({1: ratio(9.0), 8: ratio(9.0)})
    others["four-bits"] = four.model_copy(update={"traits": INT8_COMPILED.model_copy(update={"weight_bits": 4})})
    others["bf16-again"] = four.model_copy(update={"traits": BF16_COMPILED})
    kept = {name: made.recipes[name] for name in ("fp32", "bf16-compiled")}
    return made.model_copy(update={"recipes": kept | others})


def recipe(ratios: dict[int, Estimate]) -> Recipe:
    own = handmade.recipe(INT8_COMPILED, speedup=3.0, delta=0.0, size_mb=23.0, peak_mb=75.0)
    speeds = {size: own.at(size).model_copy(update={"best_float": rival(each)}) for size, each in ratios.items()}
    return own.model_copy(update={"speeds": speeds})


def rival(ratio: Estimate) -> Rival:
    return Rival(recipe="bf16-compiled", ratio=ratio)


def interval(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, unit="×")


def test_the_fastest_of_eight_bits_at_each_batch_size() -> None:
    first = {1: interval(0.8, 0.7, 0.9), 8: interval(1.3, 0.9, 1.4), 32: interval(1.2, 1.1, 1.3)}
    second = {1: interval(0.6, 0.5, 0.7), 32: interval(1.5, 1.4, 1.6)}
    found = race(study(first=first, second=second))
    assert found == {
        1: Winner("first", rival(first[1])),
        8: Winner("first", rival(first[8])),
        32: Winner("second", rival(second[32])),
    }


def test_no_race_without_both_sides() -> None:
    assert race(study()) == {}
