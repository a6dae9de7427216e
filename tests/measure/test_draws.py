"""Draws of the miniature study, against the whole pipeline with the same seed."""

from pathlib import Path

import handmade
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import PREPROCESSING
from numpy.typing import NDArray

from vitquant import recipes
from vitquant.cli import main
from vitquant.data import folder
from vitquant.data.prepare import prepare
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy, draws
from vitquant.measure.draws import Draw
from vitquant.models import baseline
from vitquant.params import BASELINE, Params, Recipe
from vitquant.results import form, predictions
from vitquant.results.draws import Draws, Row
from vitquant.results.hits import discordant, hits

NAMES = ("dynamic-int8", "vitquant-int8")


@pytest.fixture(scope="module")
def study(params: Params) -> Params:
    """With a recipe that calibrates beside the one that does not."""
    return params.model_copy(update={"recipes": {**params.recipes, "vitquant-int8": Recipe(method="vitquant_int8")}})


@pytest.fixture(scope="module")
def root(study: Params, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository where the study has run, as far as draws need it."""
    return pipeline(study, images, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def measured(study: Params, root: Path) -> Draws:
    return draws.measure(study, NAMES, 2, root, root / "results/draws")


def pipeline(params: Params, images: Path, root: Path) -> Path:
    """Every stage up to the predictions of every recipe."""
    (root / "data").mkdir()
    (root / "data/raw").symlink_to(images)
    prepare(folder.samples(params.data, images), PREPROCESSING, params.data, root / "data/processed")
    prepared = Prepared(root / "data/processed")
    baseline.build(params, Path("unused"), prepared, root / "models/baseline", threads=2)
    for name, recipe in params.recipes.items():
        path = root / "models/recipes" / name
        recipes.build(name, recipe, root / "models/baseline", path, prepared.calibration(params.calibration))
        out, arrays = root / f"results/accuracy/{name}.json", root / f"results/predictions/{name}.npz"
        accuracy.evaluate(recipes.load(path), prepared, params.evaluate, 2, out, arrays)
    return root


def right(root: Path, name: str) -> NDArray[np.bool_]:
    logits = predictions.read(root / f"results/predictions/{name}.npz")["logits"]
    return hits(logits, Prepared(root / "data/processed").labels("val"), 1)


def found(measured: Draws, kind: str, seed: int, name: str) -> Row:
    (row,) = [row for row in measured.rows if (row.kind, row.seed, row.recipe) == (kind, seed, name)]
    return row


@pytest.mark.parametrize("draw", [Draw("calibration", 1), Draw("probe", 1), Draw("split", 1)])
def test_they_are_what_the_whole_pipeline_gives_with_that_seed(
    draw: Draw, study: Params, images: Path, measured: Draws, tmp_path: Path
) -> None:
    again = pipeline(draw.apply(study), images, tmp_path)
    fp32 = right(again, BASELINE)
    for name in NAMES:
        row, ours = found(measured, draw.kind, draw.seed, name), right(again, name)
        expected = (len(ours), ours.sum(), fp32.sum(), *discordant(ours, fp32))
        assert (row.images, row.hits, row.fp32_hits, row.gained, row.lost) == expected, name


def test_with_the_studys_own_seeds_they_are_the_studys_predictions(measured: Draws, root: Path) -> None:
    for name in NAMES:
        for kind in ("calibration", "probe", "split"):
            row = found(measured, kind, 0, name)
            assert row.hits == right(root, name).sum()
            assert row.as_studied == row.images


def test_a_rerun_computes_what_is_missing_and_nothing_else(
    study: Params, root: Path, measured: Draws, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root / "results/draws/draws.json"
    lacking = [row for row in measured.rows if (row.kind, row.recipe) != ("calibration", "dynamic-int8")]
    form.write(file, measured.model_copy(update={"rows": lacking}))
    built: list[str] = []
    build = recipes.build
    monkeypatch.setattr(recipes, "build", lambda name, *rest: (built.append(name), build(name, *rest)))
    again = draws.measure(study, NAMES, 2, root, file.parent)
    assert built == ["dynamic-int8"] * 2
    assert sorted(map(str, again.rows)) == sorted(map(str, measured.rows))
    other = study.model_copy(update={"calibration": study.calibration.model_copy(update={"images": 10})})
    draws.measure(other, ["dynamic-int8"], 2, root, file.parent)
    assert len(built) == 2 + 3  # the rows of before are of other inputs
    assert not [path.name for path in (root / "models/draws").iterdir() if path.name in (*NAMES, "processed")]


def test_the_command_prints_each_spread(
    study: Params, root: Path, measured: Draws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study.model_dump()))
    form.write(tmp_path / "findings.json", handmade.findings())
    form.write(tmp_path / "draws.json", measured)
    paths = ["--findings", str(tmp_path / "findings.json"), "--out", str(tmp_path)]
    command = ["--params", str(tmp_path / "params.yaml"), "draws", "--seeds", "2", "--recipe", "dynamic-int8", *paths]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    for kind in ("calibration", "probe", "split"):
        assert f"dynamic-int8, {kind}: " in result.output
    assert form.read(tmp_path / "draws.json", Draws) == measured


def test_kinds_that_there_are_none_of_are_left_out_with_a_reason(study: Params, root: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(root / "data/raw")
    (root / "data/raw").rename(root / "data/whole")
    (root / "data/raw").symlink_to(tmp_path)
    left = draws.measure(study, ["dynamic-int8"], 2, root, tmp_path / "out").left_out
    (root / "data/raw").unlink()
    (root / "data/whole").rename(root / "data/raw")
    assert "a split of its own" in left["split"]
    fixed = study.model_copy(update={"head": "imagenet1k"})
    measured = draws.measure(fixed, ["dynamic-int8"], 2, root, tmp_path / "out")
    assert {row.kind for row in measured.rows} == {"calibration", "split"}
    assert "no probe" in measured.left_out["probe"]


def test_what_cannot_be_measured_is_one_line(study: Params, root: Path, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="run `dvc repro`"):
        draws.measure(study, NAMES, 2, tmp_path, tmp_path)
    with pytest.raises(VitquantError, match="unknown recipe 'x'"):
        draws.measure(study, ["x"], 2, root, tmp_path)
    with pytest.raises(VitquantError, match="head: none"):
        draws.measure(study.model_copy(update={"head": "none"}), NAMES, 2, root, tmp_path)
