"""A small FP32 artifact, the example recipes, each built once, and a process for those whose engine might crash."""

import faulthandler
import functools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vitquant import artifact, recipes
from vitquant import cache as compiled
from vitquant.data.prepared import Prepared
from vitquant.models import baseline
from vitquant.params import Params, RandomModel

from .examples import EXAMPLES, Built, Run
from .vision_transformer import vit_of_two_blocks


@pytest.fixture(scope="session")
def fp32(params: Params, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As for all tests, but of two blocks."""
    path = tmp_path_factory.mktemp("models") / "baseline"
    small = params.model_copy(update={"model": RandomModel(source="random", name=vit_of_two_blocks.__name__, seed=0)})
    baseline.build(small, Path("unused"), prepared, path, threads=2)
    return path


def start() -> None:
    """In a process of its own: what it needs to know of the tests, by importing this module."""
    faulthandler.enable()


@pytest.fixture(scope="session")
def process() -> Iterator[Executor]:
    """A process of its own: if it crashes, a test fails and the others go on."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=start) as pool:
        yield pool


@pytest.fixture(scope="session")
def run(process: Executor) -> Run:
    """Calls `function(*arguments)` where the example `name` may run: run(name, function, *arguments)."""

    def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if EXAMPLES[name].apart:
            return process.submit(function, *arguments).result()
        return function(*arguments)

    return call


@pytest.fixture(scope="session")
def built(run: Run, fp32: Path, calibration, cache: Path) -> Built:
    """The artifact of the example `name`, built once for all tests, and for all workers that share the cache."""

    @functools.cache
    def build(name: str) -> Path:
        path = cache / "recipes" / name
        path.parent.mkdir(exist_ok=True)
        with compiled.lock(path):
            if not path.exists():
                run(name, recipes.build, name, EXAMPLES[name].recipe, fp32, path, calibration)
        reason, needs = artifact.open_artifact(path).spec.unavailable, EXAMPLES[name].needs
        if reason and needs and needs in reason:
            pytest.skip(reason)
        return path

    return build
