"""Each family of timm's transformers through vitquant-int8 and dynamic-int8-smooth, or refused by one clear line."""

from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES, IMAGES, Family, cosines, images, write
from numpy.typing import NDArray

from vitquant import artifact, recipes
from vitquant.params import Recipe

INT8 = Recipe(method="vitquant_int8")
SMOOTH = Recipe.model_validate({"method": "dynamic_int8_smooth", "engine": "auto"})


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def fp32(family: Family, tmp_path: Path) -> Path:
    write(family, tmp_path / "fp32")
    return tmp_path / "fp32"


def outputs(path: Path) -> NDArray[np.float32]:
    return recipes.load(path).outputs(images(0, IMAGES))


def test_its_int8_recipes_are_close_to_fp32(family: Family, fp32: Path, tmp_path: Path) -> None:
    """Cosine of the logits and of what the head reads; and each image is still told from the others."""
    expected = outputs(fp32)
    assert np.array_equal(expected[:, :IMAGES].argmax(axis=1), range(IMAGES))
    for recipe, least in ((INT8, 0.999), (SMOOTH, 0.99)):
        path = tmp_path / recipe.method
        recipes.build("r", recipe, fp32, path, images(IMAGES, 12))
        reason = artifact.open_artifact(path).spec.unavailable
        if reason:
            name = family.member.partition("_")[0]
            assert family.refused in reason if recipe is INT8 else name in ("swin", "swinv2", "aimv2"), reason
            assert family.refused
            assert len(reason.splitlines()) == 1
            continue
        given = outputs(path)
        assert not (family.refused and recipe is INT8)
        assert cosines(given[:, IMAGES:], expected[:, IMAGES:]).min() > least
        assert cosines(given[:, :IMAGES], expected[:, :IMAGES]).min() > least - 0.005
        assert np.array_equal(given[:, :IMAGES].argmax(axis=1), range(IMAGES))
