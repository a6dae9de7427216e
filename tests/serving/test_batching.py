"""The batch limit that the study's measurement gives."""

from pathlib import Path
from typing import Any

import handmade
import pytest

from vitquant.artifact import Artifact, open_artifact
from vitquant.measure.environment import machine
from vitquant.results import form
from vitquant.serving import batching


@pytest.fixture
def artifact(artifacts: Path) -> Artifact:
    return open_artifact(artifacts / "vitquant-int8")


def write(path: Path, artifact: Artifact, batch8_ms: float, **environment: Any) -> Path:
    """A study's file in which `artifact` takes 10 ms for an image."""
    benchmark = handmade.benchmark()
    recipe = benchmark.recipes["dynamic-int8"]
    assert recipe.measured
    times = {1: 10.0, 8: batch8_ms}
    launches = {size: [[times[size]] * len(rounds) for rounds in recipe.measured.latency_ms[size]] for size in times}
    measured = recipe.measured.model_copy(update={"latency_ms": launches, "artifact_sha256": artifact.sha256})
    here = benchmark.environment.model_copy(update=machine().model_dump() | environment)
    recipes = benchmark.recipes | {"vitquant-int8": recipe.model_copy(update={"measured": measured})}
    form.write(path, benchmark.model_copy(update={"environment": here, "recipes": recipes}))
    return path


@pytest.mark.parametrize(("batch8_ms", "expected", "ratio"), [(40.0, 8, "8: 2.00"), (78.0, 1, "8: 1.03")])
def test_batches_where_they_help(
    artifact: Artifact, tmp_path: Path, batch8_ms: float, expected: int, ratio: str
) -> None:
    size, why = batching.default(artifact, write(tmp_path / "benchmark.json", artifact, batch8_ms))
    assert size == expected
    assert ratio in why


def test_none_where_nobody_knows(artifact: Artifact, artifacts: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "benchmark.json", artifact, 40.0)
    other = open_artifact(artifacts / "second")
    elsewhere = write(tmp_path / "elsewhere.json", artifact, 40.0, cpu="another")
    for chosen, path, said in (
        (other, file, "is not of this artifact"),
        (artifact, elsewhere, "on another machine"),
        (artifact, tmp_path / "none.json", "cannot be read"),
        (open_artifact(artifacts / "dynamic-int8"), file, "another's logits"),
    ):
        size, why = batching.default(chosen, path)
        assert (size, said in why) == (1, True), why
