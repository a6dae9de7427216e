"""The baseline keeps what it made of the study's own images, and no other artifact ships it."""

from pathlib import Path

import numpy as np
import pytest

from vitquant import recipes, reference
from vitquant.artifact import open_artifact
from vitquant.data.prepared import Prepared


def test_it_is_what_the_model_makes_of_validation_images(fp32: Path, prepared: Prepared) -> None:
    predictor = recipes.load(fp32)
    found = reference.read(predictor.artifact)
    assert found
    images = prepared.images("val")
    outputs = predictor.outputs(images[reference.rows(len(images))])
    np.testing.assert_allclose(np.concatenate([found.logits, found.embedding], axis=1), outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "kept"), [(24, 24), (200, 64), (350, 87), (1050, 256)])
def test_it_is_a_quarter_of_them_within_bounds(count: int, kept: int) -> None:
    chosen = reference.rows(count)
    assert len(np.unique(chosen)) == len(chosen) == kept
    assert chosen.max() < count


def test_a_recipes_artifact_ships_none(fp32: Path, calibration, params, tmp_path: Path) -> None:
    recipes.build("fp32", params.recipes["fp32"], fp32, tmp_path / "fp32", calibration)
    assert reference.read(open_artifact(tmp_path / "fp32")) is None
