"""Drift in the miniature study: what is measured, and what of it is not measured again."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from vitquant import reference
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.monitoring import study
from vitquant.params import Params, Recipe
from vitquant.results import form
from vitquant.results.drift import Drifts

MILD = {"brightness": (1.2,), "colour": (0.1, 0.5)}


def test_the_stream_is_of_all_classes_and_not_of_the_reference() -> None:
    labels = np.repeat(np.arange(4), 100)
    rows = study.stream(labels, 40)
    assert not set(rows.tolist()) & set(reference.rows(400).tolist())
    assert len(set(rows.tolist())) == 40
    assert np.bincount(labels[rows]).min() >= 7
    assert not np.array_equal(rows, np.sort(rows))
    assert sorted(study.stream(labels[:50], 40)) == sorted(set(study.stream(labels[:50], 40)))  # the reference has all


def test_the_command_measures_and_goes_on(
    params: Params, fp32: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {**params.recipes, "vitquant-int8": Recipe(method="vitquant_int8")}
    of = params.model_copy(update={"recipes": recipes})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(of.model_dump()))
    for name, path in (("models/baseline", fp32), ("data/processed", prepared.path)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "STRENGTHS", MILD)
    monkeypatch.setattr(study, "PLAN", [("clean", 0.0), ("brightness", 1.2), ("colour", 0.1), ("colour", 0.5)])
    result = CliRunner().invoke(main, ["drift", "--images", "12"])
    assert result.exit_code == 0, result.output
    found = form.read(tmp_path / "results/drift/drift.json", Drifts)
    assert list(found.artifacts) == ["fp32", "dynamic-int8", "vitquant-int8"]
    assert [(row.kind, row.strength) for row in found.rows] == study.PLAN
    assert [(each.kind, each.strength, each.recipe) for each in found.recalibrated] == [
        ("brightness", 1.2, "vitquant-int8"), ("colour", 0.5, "vitquant-int8"),
    ]  # fmt: skip
    assert found.uncalibrated == ["dynamic-int8"]
    assert found.rows[0].inputs is None  # of 12 images nothing can be told
    assert not (tmp_path / "models/drift").exists()
    kept = found.model_copy(update={"rows": found.rows[:-1], "recalibrated": found.recalibrated[:1]})
    form.write(tmp_path / "results/drift/drift.json", kept)
    said: list[str] = []
    names = ["dynamic-int8", "vitquant-int8"]
    again = study.measure(of, names, 12, tmp_path, tmp_path / "results/drift", said.append)
    assert again == found
    assert [line for line in said if "built" not in line] == ["colour 0.5"]


def test_what_cannot_be_measured_is_one_line(params: Params, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="head: features"):
        study.measure(params.model_copy(update={"head": "features"}), [], 4, tmp_path, tmp_path, print)
    with pytest.raises(VitquantError, match="models/baseline is not an artifact directory: .*dvc repro"):
        study.measure(params, [], 4, tmp_path, tmp_path, print)
