"""Tails, measured: of a recipe that loads, of one that cannot, and by the stage, of the one that is recommended."""

from pathlib import Path

import handmade
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import mini_study

from vitquant import artifact, recipes
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError
from vitquant.measure import accuracy, tails
from vitquant.params import Params
from vitquant.results import form
from vitquant.results.tails import Tails
from vitquant.traits import FP32


@pytest.fixture
def artifacts(params: Params, fp32: Path, tmp_path: Path) -> Path:
    """Those of the miniature study, in a folder."""
    for name, recipe in params.recipes.items():
        recipes.build(name, recipe, fp32, tmp_path / "artifacts" / name, np.zeros((1, 64, 64, 3), np.uint8))
    return tmp_path / "artifacts"


def test_so_many_passes_are_timed(params: Params, prepared: Prepared, fp32: Path) -> None:
    benchmark = params.benchmark.model_copy(update={"tail_passes": 123})
    found = tails.run(fp32, prepared.path, benchmark, threads=1).timed
    assert found
    assert (found.recipe, len(found.latency_ms)) == (fp32.name, 123)
    assert len(set(found.latency_ms)) > 1  # each pass, and not their mean
    assert found.artifact_sha256 == artifact.open_artifact(fp32).sha256
    assert found.environment.threads == 1
    assert 1000 * found.conditions.seconds > 0.9 * sum(found.latency_ms)  # the watch looked on meanwhile


def test_what_cannot_run_has_its_reason(params: Params, prepared: Prepared, fp32: Path, tmp_path: Path) -> None:
    def fill(directory: Path) -> dict:
        raise UnsupportedError("no such instruction")

    artifact.write(tmp_path / "absent", artifact.open_artifact(fp32).spec, fill)
    found = tails.run(tmp_path / "absent", prepared.path, params.benchmark, threads=1)
    assert found == Tails(unavailable="no such instruction")


def test_the_stage_times_the_recommended_recipe_or_says_why_not(
    images: Path, prepared: Prepared, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of results made by hand in which INT8 is faster: it loses too much, then nothing, then accuracy is not known."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(mini_study(images)))
    inputs = handmade.stages(prepared, tmp_path / "stages")

    def measured() -> Tails:
        command = ["tails", "--artifacts", str(artifacts), "--out", "tails.json"]
        for name in ("accuracy", "predictions", "benchmark", "data"):
            command += [f"--{name}", str(getattr(inputs, name))]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        return form.read(Path("tails.json"), Tails)

    lossy = measured().timed
    assert lossy
    assert (lossy.recipe, len(lossy.latency_ms)) == ("fp32", 100)
    logits = np.eye(6, dtype=np.float32)[prepared.labels("val")]
    handmade.write_accuracy(inputs, "dynamic-int8", handmade.INT8, logits)
    exact = measured().timed
    assert exact
    assert exact.recipe == "dynamic-int8"
    for name, traits in (("fp32", FP32), ("dynamic-int8", handmade.INT8)):
        file, arrays = inputs.accuracy / f"{name}.json", inputs.predictions / f"{name}.npz"
        accuracy.write_unavailable(name, traits, "the head was never trained", file, arrays)
    none = measured()
    assert none == Tails(unavailable="no recipe is recommended, since accuracy was not measured")
