"""Outliers in the miniature study's weights: what they leave as it is, what they do, and what is recorded."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from numpy.typing import NDArray

from vitquant.artifact import open_artifact
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import outliers
from vitquant.models.loading import load_model
from vitquant.params import Params, Recipe
from vitquant.results import form
from vitquant.results.outliers import Outliers


@pytest.fixture(scope="module")
def study(params: Params) -> Params:
    return params.model_copy(update={"recipes": {**params.recipes, "vitquant-int8": Recipe(method="vitquant_int8")}})


@pytest.fixture(scope="module")
def root(fp32: Path, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository where the study has run as far as outliers need it."""
    root = tmp_path_factory.mktemp("study")
    for name, path in (("models/baseline", fp32), ("data/processed", prepared.path)):
        (root / name).parent.mkdir()
        (root / name).symlink_to(path)
    return root


def images(fp32: Path, calibration: NDArray[np.uint8]) -> torch.Tensor:
    return open_artifact(fp32).spec.preprocessing.normalise(torch.from_numpy(calibration))


@pytest.mark.parametrize(
    ("dtype", "factor", "bound"),
    [(torch.float32, 64.0, 1e-4), (torch.float32, 10.0, 1e-4), (torch.float64, 10.0, 1e-9)],
)
def test_outliers_in_channels_leave_the_function_and_are_in_the_activations(
    fp32: Path, calibration: NDArray[np.uint8], dtype: torch.dtype, factor: float, bound: float
) -> None:
    inputs = images(fp32, calibration).to(dtype)
    model = load_model(open_artifact(fp32)).to(dtype)
    largest: list[float] = []
    model.backbone.blocks[0].norm1.register_forward_hook(lambda *seen: largest.append(float(seen[2].abs().max())))
    before = model(inputs)
    outliers.with_channels(model, factor)
    after = model(inputs)
    assert (after - before).abs().max() < bound * before.abs().max()
    assert largest[1] > factor / 2 * largest[0]


def test_massive_tokens_stay_so_through_all_blocks(fp32: Path, calibration: NDArray[np.uint8]) -> None:
    """Those of the four corners alone; at factor 1 nothing changes."""
    inputs, model = images(fp32, calibration), load_model(open_artifact(fp32))
    seen: list[torch.Tensor] = []
    before = model(inputs)
    outliers.with_tokens(model, 1.0, inputs)
    assert torch.equal(model(inputs), before)
    outliers.with_tokens(model, 64.0, inputs)
    for block in (model.backbone.blocks[0], model.backbone.blocks[-1]):
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert model(inputs).isfinite().all()
    for tokens in seen:
        norms = tokens[:, -16:].norm(dim=-1)  # 64 pixels are 4 patches of 16 each way
        massive = norms > 10 * norms.median()
        assert massive.all(dim=0).nonzero().flatten().tolist() == massive.any(dim=0).nonzero().flatten().tolist()
        assert massive.all(dim=0).nonzero().flatten().tolist() == [0, 3, 12, 15]


def test_the_command_writes_each_recipe_at_each_factor(study: Params, root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study.model_dump()))
    command = ["--params", str(tmp_path / "params.yaml"), "outliers", "--factor", "64", "--images", "12"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        result = CliRunner().invoke(main, [*command, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "channels, vitquant-int8: agreement " in result.output
    measured = form.read(tmp_path / "outliers.json", Outliers)
    assert measured.images == 12
    rows = {(row.kind, row.factor, row.recipe): row for row in measured.rows}
    names = ("fp32", "dynamic-int8", "vitquant-int8")
    assert set(rows) == {
        (kind, factor, name) for kind in ("channels", "tokens") for factor in (1, 64) for name in names
    }
    control = rows["channels", 64, "fp32"]
    assert control.moved < 1e-4
    assert (control.agreeing, control.gained, control.lost) == (12, 0, 0)
    one = rows["channels", 1, "dynamic-int8"]
    assert one.moved == rows["tokens", 1, "dynamic-int8"].moved
    assert rows["channels", 64, "dynamic-int8"].moved > one.moved  # a scale of the whole tensor
    assert rows["channels", 64, "vitquant-int8"].moved < 2 * rows["channels", 1, "vitquant-int8"].moved  # it smooths
    assert not (root / "models/outliers").exists()


def test_what_cannot_be_measured_is_one_line(study: Params, root: Path, tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="models/baseline is not an artifact directory: .*dvc repro"):
        outliers.measure(study, ["dynamic-int8"], [4], 12, tmp_path, tmp_path)
    with pytest.raises(VitquantError, match="unknown recipe 'x'"):
        outliers.measure(study, ["x"], [4], 12, root, tmp_path)
    with pytest.raises(VitquantError, match="head: features"):
        outliers.measure(study.model_copy(update={"head": "features"}), [], [4], 12, root, tmp_path)
    assert not (tmp_path / "outliers.json").exists()
