"""`vitquant predict`: every image once, as the Predictor has it, whatever is between them and whenever it stopped."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import handmade
import numpy as np
import pytest
from click.testing import CliRunner, Result

from vitquant import files, recipes
from vitquant.analysis.recommend import recommended
from vitquant.cli import main
from vitquant.serving import many, model

VITQUANT = str(Path(sys.executable).with_name("vitquant"))


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


@pytest.fixture
def few(images: Path, tmp_path: Path) -> Path:
    """Five images, in folders, and what is none."""
    folder = tmp_path / "few"
    shutil.copytree(images / "disc", folder / "a" / "b", ignore=lambda _, names: [n for n in names if n > "004.png"])
    (folder / "a" / "note.txt").write_text("no image's name")
    return folder


@pytest.mark.parametrize("recipe", ["vitquant-int8", "dynamic-int8"])
def test_classes_and_probabilities_are_the_predictors(artifacts: Path, few: Path, tmp_path: Path, recipe: str) -> None:
    out = tmp_path / "new" / "out.jsonl"
    result = predict(few, "--artifact", artifacts / recipe, "--top", 2, "--out", out)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    files = sorted(few.rglob("*.png"))
    assert [row["file"] for row in rows] == list(map(str, files))
    predictor = recipes.load(artifacts / recipe)
    for row, file in zip(rows, files, strict=True):
        expected = model.probabilities(predictor([file]))[0]
        order = np.argsort(-expected)[:2]
        assert row["classes"] == [predictor.artifact.spec.classes[index] for index in order]
        np.testing.assert_allclose(row["probabilities"], expected[order], atol=1e-4)
        assert (row["recipe"], row["artifact"]) == (recipe, predictor.artifact.sha256)


def test_what_is_no_image_is_named_and_skipped(artifacts: Path, few: Path, tmp_path: Path) -> None:
    (few / "bad\x1b.png").write_bytes(b"no image")
    (few / "gone.png").symlink_to("nowhere")
    out = tmp_path / "out.csv"
    result = predict(few, few / "a", "--artifact", artifacts / "vitquant-int8", "--out", out)
    assert result.exit_code == 1
    assert "Error: 2 of 7 files could not be predicted" in result.output
    assert "bad\\x1b.png: it is no AVIF" in result.output
    assert "gone.png: No such file" in result.output
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [str(file) for file in sorted((few / "a").rglob("*.png"))]
    assert len(rows[0]) == 3 + 2 * 5


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_file_that_was_cut_off_is_gone_on_with(artifacts: Path, few: Path, tmp_path: Path, form: str) -> None:
    (few / 'a "quoted", name.png').write_bytes(next(few.rglob("*.png")).read_bytes())
    out, command = tmp_path / "out", [few, "--artifact", artifacts / "vitquant-int8", "--format", form, "--out"]
    assert predict(*command, out).exit_code == 0
    whole = out.read_bytes()
    for cut in (len(whole) * 2 // 3, 5, 0):
        out.write_bytes(whole[:cut])
        assert predict(*command, out).exit_code == 0
        assert out.read_bytes() == whole
    assert predict(*command, out).exit_code == 0
    assert out.read_bytes() == whole


def test_what_was_done_is_not_done_again(artifacts: Path, few: Path, tmp_path: Path) -> None:
    out, command = tmp_path / "out.csv", [few, "--artifact", artifacts / "vitquant-int8", "--out"]
    predict(*command, out)
    marked = [line.replace(",0.", ",0.0", 1) if "000.png" in line else line for line in out.read_text().splitlines()]
    out.write_text("\n".join(marked) + "\n")
    predict(*command, out)
    assert out.read_text().splitlines() == marked


def test_a_file_of_something_else_is_left_alone(artifacts: Path, few: Path, tmp_path: Path) -> None:
    out, of_int8 = tmp_path / "out.csv", ("--artifact", artifacts / "vitquant-int8", "--out")
    predict(few, *of_int8, out)
    before = out.read_bytes()
    for arguments in (
        (*of_int8, out, "--top", 2),
        (*of_int8, out, "--format", "jsonl"),
        ("--artifact", artifacts / "fp32", "--out", out),
    ):
        result = predict(few, *arguments)
        assert result.exit_code == 1
        assert f"{out} holds " in result.output
        assert "name another file" in result.output
        assert out.read_bytes() == before


def test_a_table_and_lines_for_a_pipe(artifacts: Path, few: Path) -> None:
    command = [VITQUANT, "predict", str(few), "--artifact", str(artifacts / "vitquant-int8")]
    shown = subprocess.run([*command, "--top", "1"], capture_output=True, text=True, check=True)
    assert len(shown.stdout.splitlines()) == 5
    assert all("%" in line and str(few) in line for line in shown.stdout.splitlines())
    lines = subprocess.run([*command, "--format", "jsonl"], capture_output=True, text=True, check=True).stdout
    assert [len(json.loads(line)["classes"]) for line in lines.splitlines()] == [5] * 5


def test_torch_is_not_loaded_for_vitquant_int8(artifacts: Path, few: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from vitquant.serving import many, model
loaded, threads = model.load_for_many(Path({str(artifacts / "vitquant-int8")!r}))
found = list(many.predict(loaded, threads, many.find([Path({str(few)!r})])))
assert len(found) == 5 and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_wrong_use_is_one_line(artifacts: Path, few: Path, tmp_path: Path) -> None:
    artifact = ("--artifact", artifacts / "vitquant-int8")
    (tmp_path / "empty").mkdir()
    embedding = tmp_path / "embedding"
    shutil.copytree(artifacts / "vitquant-int8", embedding)
    spec = files.read_json(embedding / "recipe.json")
    files.write_json(embedding / "recipe.json", {**spec, "classes": []})
    for arguments, said in (
        ((few, "--artifact", embedding), "gives embeddings, and has no classes"),
        ((tmp_path / "none", *artifact), "is neither a file nor a folder"),
        ((tmp_path / "empty", *artifact), "there is no image file in"),
        ((few, *artifact, "--recommended"), "name two artifacts"),
        ((few, *artifact, "--format", "table", "--out", tmp_path / "t"), "is for a terminal"),
        ((few, *artifact, "--device", "cuda"), "has no kernels for CUDA"),
        ((few, "--artifact", tmp_path / "empty"), "recipe.json is missing"),
    ):
        result = predict(*arguments)
        assert (result.exit_code, len(result.output.splitlines())) == (1, 1), result.output
        assert said in result.output


def test_the_study_recommends_an_artifact(
    artifacts: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "findings.json is missing: run `dvc repro`" in predict(few).output
    findings = handmade.findings()
    files.write_json(tmp_path / "results/findings.json", findings.model_dump())
    name = recommended(findings.study)
    assert name and name != "fp32"
    (tmp_path / "models/recipes").mkdir(parents=True)
    (tmp_path / "models/recipes" / name).symlink_to(artifacts / "dynamic-int8")
    result = predict(few, "--format", "jsonl", "--recommended")
    assert [json.loads(line)["recipe"] for line in result.stdout.splitlines()] == ["dynamic-int8"] * 5


def test_broken_weights_end_it(artifacts: Path, few: Path) -> None:
    loaded, threads = model.load_for_many(artifacts / "vitquant-int8")
    broken = model.Model(loaded.artifact, lambda images: loaded.logits(images) * np.float32("nan"))
    with threads, pytest.raises(model.VitquantError, match="its weights are broken"):
        list(many.predict(broken, threads, many.find([few])))
