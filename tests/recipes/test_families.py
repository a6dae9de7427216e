"""Each family of timm's transformers through vitquant-int8 and dynamic-int8-smooth, or refused by one clear line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, IMAGES, Family, cosines, images, write
from numpy.typing import NDArray

from vitquant import artifact, recipes
from vitquant.params import Recipe

INT8 = Recipe(method="vitquant_int8")
LEAST = 0.999
SMOOTH = Recipe.model_validate({"method": "dynamic_int8_smooth", "engine": "auto"})


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    """On one thread, since the products are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield FAMILIES[request.param]
    torch.set_num_threads(threads)


def outputs(path: Path) -> NDArray[np.float32]:
    return recipes.load(path).outputs(images(0, IMAGES))


def test_its_int8_recipes_are_close_to_fp32_or_refuse_it_by_one_line(family: Family, tmp_path: Path) -> None:
    """Cosines of the logits and of what the head reads; and each image is still told from the others."""
    write(family, tmp_path / "fp32")
    expected = outputs(tmp_path / "fp32")
    assert np.array_equal(expected[:, :IMAGES].argmax(axis=1), range(IMAGES))
    for recipe, refused in ((INT8, family.refused), (SMOOTH, family.not_smoothed)):
        path = tmp_path / recipe.method
        recipes.build("r", recipe, tmp_path / "fp32", path, images(IMAGES, 12))
        if refused:
            assert (artifact.open_artifact(path).spec.unavailable or "").endswith(f": {refused}"), recipe.method
            continue
        given = outputs(path)
        for part in (slice(IMAGES), slice(IMAGES, None)):
            assert cosines(given[:, part], expected[:, part]).min() > LEAST, recipe.method
        assert np.array_equal(given[:, :IMAGES].argmax(axis=1), range(IMAGES)), recipe.method
