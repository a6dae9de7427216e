"""What a recipe is comes from its method, whatever its user calls it."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from vitquant import artifact, recipes
from vitquant.params import Recipe
from vitquant.traits import FP32, Traits


def test_an_artifact_carries_its_methods_traits(fp32: Path, calibration: np.ndarray, tmp_path: Path) -> None:
    for name, options in {
        "mine": {"method": "int8_weight_only"},
        "int8": {"method": "fp32"},  # a misleading name
    }.items():
        recipes.build(name, Recipe.model_validate(options), fp32, tmp_path / name, calibration)
    mine, int8 = (artifact.open_artifact(tmp_path / name).spec.traits for name in ("mine", "int8"))
    assert mine == Traits(weight_bits=8, activation_bits=16, arithmetic="bfloat16", execution="eager", devices=("cpu",))
    assert mine.quantized
    assert int8 == FP32
    assert not int8.quantized


def test_traits_survive_json_and_take_no_other_key_or_value() -> None:
    assert Traits.model_validate_json(FP32.model_dump_json()) == FP32
    content = FP32.model_dump(mode="json")
    for change in ({"arithmetic": "roman"}, {"weight_bits": 0}, {"devices": []}, {"speed": 1}):
        with pytest.raises(ValidationError):
            Traits.model_validate(content | change)
