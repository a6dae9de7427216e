import copy
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import mini_study

from vitquant import params, yaml_files
from vitquant.errors import VitquantError

REPOSITORY = Path(__file__).parents[1]


def load(tmp_path: Path, study: dict) -> params.Params:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(study))
    return params.load(file)


def test_the_committed_study_is_valid() -> None:
    loaded = params.load(REPOSITORY / "params.yaml")
    assert loaded.model.source == "onnx-wheel"
    assert loaded.recipes["dynamic-int8"].options["per_channel"] is False


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("data", "crops"), 5, "data.crops: unknown key"),
        (("colour",), "red", "colour: unknown key"),
        (("data", "crop"), "64", "data.crop: Input should be a valid integer, or Input should be 'auto' (got '64')"),
        (("evaluate", "batch_size"), 0, "evaluate.batch_size: Input should be greater than 0 (got 0)"),
        (("evaluate", "large_batch"), 0, "evaluate.large_batch: Input should be greater than 0 (got 0)"),
        (("data", "val_fraction"), 1.5, "data.val_fraction: Input should be less than 1 (got 1.5)"),
        (("data", "crop"), 100, "crop (100) must not exceed resize (72)"),
        (("data", "source"), "ftp", "'ftp'"),
        (("recipes", "fp32"), None, "recipes.fp32"),
        (("recipes", "Not A Name"), {"method": "fp32"}, "recipes.Not A Name"),
        (
            ("benchmark", "batches"),
            [{"size": 1, "rounds": 2}, {"size": 1, "rounds": 2}],
            "each batch size may stand once",
        ),
        (("benchmark", "batches"), [{"size": 1, "rounds": 1}], "batches: one round at size 1 has no interval"),
        (("cuda", "batches"), [{"size": 1, "rounds": 2, "passes": 3}], "cuda.batches.0.passes: unknown key"),
        (("cuda", "batches"), [{"size": 1, "rounds": 2, "seconds": -1.0}], "cuda.batches.0.seconds: Input should be"),
        (("threads",), 0, "threads: Input should be 'auto', or Input should be greater than 0 (got 0)"),
        (("head",), "imagenet1k", "params.yaml: head: imagenet1k belongs to model.source: dinov2, not random"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, path: tuple[str, ...], value: object, message: str) -> None:
    study = copy.deepcopy(mini_study(tmp_path))
    section = study
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with pytest.raises(VitquantError) as error:
        load(tmp_path, study)
    assert message in str(error.value)
    assert str(tmp_path / "params.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_the_baseline_recipe_is_required(tmp_path: Path) -> None:
    study = mini_study(tmp_path)
    del study["recipes"]["fp32"]
    with pytest.raises(VitquantError, match="fp32 must be among the recipes"):
        load(tmp_path, study)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    study = mini_study(tmp_path)
    del study["probe"]["c"]
    with pytest.raises(VitquantError, match=r"probe\.c: missing"):
        load(tmp_path, study)


def test_a_missing_file_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="is missing: run in the repository's root"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("study: [")
    with pytest.raises(VitquantError, match="is not valid YAML"):
        params.load(tmp_path / "params.yaml")


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes("study: grün".encode("latin-1"))
    with pytest.raises(VitquantError, match="params.yaml is not UTF-8 .at byte 9.: save it as UTF-8"):
        yaml_files.read(tmp_path / "params.yaml")


DOUBLES = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in pairwise("abcdefgh"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DOUBLES, "line 1: anchors and aliases (&, *) are not taken: write the value out"),
        ("a: 1\nb: *a", "line 2: anchors and aliases (&, *) are not taken"),
        ("a: &self [*self]", "line 1: anchors and aliases (&, *) are not taken"),
        ("study: x\na: " + "[" * 100_000, "line 2: nested more than 20 levels deep"),
        ("- " * 5000 + "x", "line 1: nested more than 20 levels deep"),
        ("seed: " + "9" * 5000, "line 1: a value of 5000 characters: shorten it to 3500"),
        ("seed: 0x" + "f" * 5000, "line 1: a value of 5002 characters"),
        ("9" * 5000 + ": 1", "line 1: a value of 5000 characters"),
    ],
)
def test_yaml_that_is_larger_than_it_looks(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(VitquantError) as error:
        params.load(tmp_path / "params.yaml")
    assert f"params.yaml: {message}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["0x" + "f" * 3400, "9" * 3400, "-" + "9" * 3400])
def test_the_longest_numbers_are_named(tmp_path: Path, value: str) -> None:
    text = yaml.safe_dump(mini_study(tmp_path)).replace("crop: 64", f"crop: {value}")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(VitquantError, match="params.yaml: data.*crop") as error:
        params.load(tmp_path / "params.yaml")
    assert len(str(error.value)) < 1000


def test_a_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    study = mini_study(tmp_path)
    for name in ("${x}", "x y"):
        study["model"] = {"source": "onnx-wheel", "wheel": f"http://me:secret@host/{name}"}
        with pytest.raises(VitquantError, match="//host/") as error:
            load(tmp_path, study)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("value", [0, -1, 179, float("inf"), float("nan"), "80"])
def test_a_limit_of_pixels_that_is_none(tmp_path: Path, value: object) -> None:
    study = mini_study(tmp_path)
    study["data"]["max_megapixels"] = value
    with pytest.raises(VitquantError, match=r"data.max_megapixels: Input should be"):
        load(tmp_path, study)
