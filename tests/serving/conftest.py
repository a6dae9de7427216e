"""Small artifacts to serve, each built once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vitquant import cache as compiled
from vitquant import recipes, runtime
from vitquant.params import Recipe

from .running import Running, serve

RECIPES = {
    "vitquant-int8": {"method": "vitquant_int8"},
    "second": {"method": "vitquant_int8"},
    "dynamic-int8": {"method": "dynamic_int8", "per_channel": False, "keep_float": ["head"], "engine": "auto"},
}


@pytest.fixture(scope="session")
def artifacts(fp32: Path, calibration: NDArray[np.uint8], cache: Path) -> Path:
    """A folder of artifacts by name: fp32 and RECIPES; for all workers that share the cache. For reading only."""
    folder = cache / "served"
    folder.mkdir(exist_ok=True)
    with compiled.lock(folder / "all"):
        for name, recipe in RECIPES.items():
            if not (folder / name).exists():
                recipes.build(name, Recipe.model_validate(recipe), fp32, folder / name, calibration)
        runtime.load(folder / "vitquant-int8", 1)  # which compiles its code, before a server has to
        if not (folder / "fp32").exists():
            (folder / "fp32").symlink_to(fp32)
    return folder


@pytest.fixture(scope="session")
def server(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """vitquant-int8, with fp32 to fall back on; nobody harms it."""
    folder = tmp_path_factory.mktemp("server")
    with serve(folder, artifacts / "vitquant-int8", artifacts / "fp32", max_body_mb=1, max_megapixels=1) as running:
        running.warm("vitquant-int8")
        yield running
