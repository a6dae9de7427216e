"""A recipe once more by other images: what is written, what is not, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import CLASSES, PREPROCESSING, draw_image

from vitquant import files, recipes
from vitquant.analysis.statistics import paired_difference
from vitquant.artifact import SPEC_FILE, open_artifact
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.monitoring.recalibration import _enough
from vitquant.monitoring.reservoir import SPEC_FILE as SAMPLE
from vitquant.monitoring.reservoir import Reservoir
from vitquant.params import Recipe

RECIPE = Recipe.model_validate({"method": "int4_weight_only"})  # calibrates, and compiles nothing


@pytest.fixture(scope="module")
def served() -> np.ndarray:
    """Other images than the study's, darker."""
    drawn = [draw_image(label, 100 + seed) for label in CLASSES for seed in range(16)]
    return np.stack([PREPROCESSING.pixels(image.point(lambda value: value // 2)) for image in drawn])


@pytest.fixture(scope="module")
def sample(served: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    kept = Reservoir(folder, 96, served.shape[1])
    for pixels in served:
        place = kept.draw()
        assert place is not None
        kept.put(place, pixels)
    kept.close()
    return folder


@pytest.fixture(scope="module")
def old(fp32: Path, calibration: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("old") / "int4-weight-only"
    recipes.build("int4-weight-only", RECIPE, fp32, path, calibration)
    return path


def recalibrate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["recalibrate", *map(str, arguments)])


def test_a_new_artifact_is_written_where_it_is_not_inferior(
    old: Path, fp32: Path, sample: Path, served: np.ndarray, prepared: Prepared, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    given = (old, "--images", sample, "--fp32", fp32, "--validate", prepared.path)
    result = recalibrate(*given, "--margin", 90, "--mix", 0.25, "--out", out)
    assert result.exit_code == 0, result.output
    first, second, last = result.stdout.splitlines()
    halves = np.random.default_rng(0).permutation(96)
    held = served[halves[48:]]
    classes = {path: recipes.load(path)(held).argmax(axis=1) for path in (fp32, old, out)}
    before, after = (100 * float((classes[path] == classes[fp32]).mean()) for path in (old, out))
    assert first.startswith(
        f"served images held back (48): agreement with fp32 {before:.2f} % before, {after:.2f} % after: "
    )
    assert first.endswith(": not inferior at a margin of 90 pp")
    labels, images = prepared.labels("val"), prepared.images("val")
    top1 = [
        100 * float((recipes.load(path)(np.array(images)).argmax(axis=1) == labels).mean()) for path in (old, out, fp32)
    ]
    said = "the study's validation images ({}): top-1 {:.2f} % before, {:.2f} % after, fp32 {:.2f} %: "
    assert second.startswith(said.format(len(labels), *top1))
    assert last == f"{out} was written"
    spec = open_artifact(out).spec
    assert (spec.recipe, spec.method, spec.options) == ("int4-weight-only", "int4_weight_only", {})
    expected = {"images": 48, "mix": 0.25, "instead_of": open_artifact(old).sha256}
    assert spec.details["recalibrated"] == expected
    assert spec.files != open_artifact(old).spec.files


def test_what_is_not_shown_to_be_as_good_is_not_written(old: Path, fp32: Path, sample: Path, tmp_path: Path) -> None:
    """Of 48 images none shows a loss below 7.5 pp where one differs."""
    result = recalibrate(old, "--images", sample, "--fp32", fp32, "--margin", 7.5, "--out", tmp_path / "new")
    assert result.exit_code == 1
    assert re.search(r"NOT shown to be not inferior at a margin of 7\.5 pp\n", result.stdout)
    assert result.stderr.splitlines()[-1] == f"Error: {tmp_path / 'new'} was not written: {old} goes on"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("margin", [0.5, 2, 7.5, 50])
def test_the_fewest_images_are_those_that_can_show_it(margin: float) -> None:
    with pytest.raises(VitquantError, match=r"and \d+ are needed") as refused:
        _enough(0, margin)
    fewest = int(re.search(r"and (\d+) are", str(refused.value))[1])
    _enough(fewest, margin)
    shown = [paired_difference(*2 * [np.ones(images - images // 2, bool)]).low for images in (fewest - 2, fewest)]
    assert shown[1] > -margin and (fewest == 40 or shown[0] < -margin)


def test_a_recipe_that_does_not_calibrate(fp32: Path, calibration: np.ndarray, sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    recipes.build("weights", Recipe.model_validate({"method": "int8_weight_only"}), fp32, path, calibration)
    result = recalibrate(path, "--images", sample, "--fp32", fp32, "--margin", 8, "--out", tmp_path / "new")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"Error: {path}: weights does not calibrate: there is nothing to do"
    assert [each.name for each in tmp_path.iterdir()] == ["weights"]


@pytest.mark.parametrize("case", ["empty", "none", "model", "baseline", "there", "mix"])
def test_what_does_not_belong_together(case: str, old: Path, fp32: Path, sample: Path, tmp_path: Path) -> None:
    """Each is one line, and nothing is written."""
    given, said = {"--images": sample, "--fp32": fp32, "--out": tmp_path / "new", "--margin": 8}, ""
    (tmp_path / "sample").mkdir()
    if case == "empty":
        files.write_json(tmp_path / "sample" / SAMPLE, {"keep": 5, "side": 64, "seen": 0})
        given["--images"] = tmp_path / "sample"
        said = "the sample has 0 images, and 89 are needed to show that a loss is below 8 pp"
    elif case == "none":
        given["--images"], said = tmp_path, "has no sample of images"
    elif case == "model":
        spec = files.read_json(fp32 / SPEC_FILE)
        (tmp_path / "fp32").mkdir()
        for file in fp32.iterdir():
            (tmp_path / "fp32" / file.name).write_bytes(file.read_bytes())
        files.write_json(tmp_path / "fp32" / SPEC_FILE, {**spec, "details": {"another": 1}})
        given["--fp32"], said = tmp_path / "fp32", "is of another model than"
    elif case == "baseline":
        given["--fp32"], said = old, "is no FP32 artifact, but int4-weight-only"
    elif case == "there":
        given["--out"], said = tmp_path / "sample", "exists: give --out a new folder"
    elif case == "mix":
        given["--mix"], said = 0.5, "--mix takes the study's own calibration images: give --validate"
    before = sorted(tmp_path.rglob("*"))
    result = recalibrate(old, *(part for pair in given.items() for part in pair))
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
