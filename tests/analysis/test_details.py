"""Where a recipe differs from FP32, class by class and image by image."""

import json
from pathlib import Path

import handmade
import numpy as np
import pytest
from handmade import INT8

from vitquant.analysis.details import Details, details
from vitquant.analysis.load import Inputs, load
from vitquant.data.prepared import Prepared
from vitquant.measure import accuracy
from vitquant.params import Params
from vitquant.results import form
from vitquant.traits import FP32

INT8_NAME = "dynamic-int8"


@pytest.fixture
def inputs(prepared: Prepared, tmp_path: Path) -> Inputs:
    return handmade.stages(prepared, tmp_path)


def found(params: Params, inputs: Inputs, *recipes: str) -> Details:
    return details(load(params, inputs), recipes)


def test_the_worst_classes_come_first(params: Params, inputs: Inputs, prepared: Prepared) -> None:
    """INT8 loses images 18 and 19 of 24; FP32 is right on 20."""
    labels, rows = prepared.labels("val"), found(params, inputs, INT8_NAME).per_class[INT8_NAME]
    assert sorted(row.name for row in rows) == sorted(prepared.classes)
    assert sum(row.images for row in rows) == 24
    lost = {prepared.classes[labels[18]], prepared.classes[labels[19]]}
    assert {row.name for row in rows[: len(lost)]} == lost
    assert all(row.top1_delta.value < 0 for row in rows[: len(lost)])
    for row in rows:
        of_class = labels == prepared.classes.index(row.name)
        assert row.fp32_top1_pct == pytest.approx(100 * np.mean(np.flatnonzero(of_class) < 20), abs=0.01)
        assert row.top1_pct == pytest.approx(100 * np.mean(np.flatnonzero(of_class) < 18), abs=0.01)
        assert row.top1_delta.value == pytest.approx(row.top1_pct - row.fp32_top1_pct, abs=0.011)


def test_the_images_that_moved_most_come_first(params: Params, inputs: Inputs, prepared: Prepared) -> None:
    rows = found(params, inputs, INT8_NAME).disagreement[INT8_NAME]
    assert len(rows) == 12
    assert [row.row for row in rows[:2]] == [18, 19]
    first, true = rows[0], int(prepared.labels("val")[18])
    assert (first.true_class, first.fp32) == (prepared.classes[true], prepared.classes[true])
    assert first.recipe == prepared.classes[(true + 1) % 6]
    assert first.image.startswith(f"{first.true_class}/")
    right, wrong, other = np.exp(1.5), np.exp(0.5), 5.0  # logits: 1.5 for the truth; or 1 beside it and 0.5 for it
    assert first.fp32_probability == pytest.approx(right / (right + other), abs=0.001)
    assert first.recipe_probability == pytest.approx(np.e / (np.e + wrong + 4), abs=0.001)
    moved = np.e / (np.e + wrong + 4) - 1 / (right + other) + 4 * (1 / (np.e + wrong + 4) - 1 / (right + other))
    assert first.distance == pytest.approx(moved, abs=0.001)
    assert rows[2].distance == 0


def test_all_recipes_have_classes_and_the_first_one_images(params: Params, inputs: Inputs) -> None:
    both = found(params, inputs, "fp32", INT8_NAME)
    assert (list(both.per_class), list(both.disagreement)) == (["fp32", INT8_NAME], ["fp32"])
    assert all(row.top1_delta.value == 0 for row in both.per_class["fp32"])
    assert found(params, inputs) == Details()


def test_a_class_without_images_has_no_row(params: Params, inputs: Inputs, prepared: Prepared, tmp_path: Path) -> None:
    results = load(params, inputs)
    other = Prepared(prepared.path)
    other.classes = [*prepared.classes, "empty"]
    rows = details(type(results)(**vars(results) | {"prepared": other}), [INT8_NAME]).per_class[INT8_NAME]
    assert len(rows) == 6


@pytest.mark.parametrize(("name", "traits"), [("fp32", FP32), (INT8_NAME, INT8)])
def test_without_predictions_there_is_nothing(params: Params, inputs: Inputs, name: str, traits) -> None:
    accuracy.write_unavailable(
        name, traits, "no head", inputs.accuracy / f"{name}.json", inputs.predictions / f"{name}.npz"
    )
    assert found(params, inputs, INT8_NAME) == Details()


def test_details_are_kept(params: Params, inputs: Inputs, tmp_path: Path) -> None:
    made = found(params, inputs, INT8_NAME)
    form.write(tmp_path / "details.json", made)
    assert form.read(tmp_path / "details.json", Details) == made
    assert json.loads((tmp_path / "details.json").read_text())["version"] == 3
