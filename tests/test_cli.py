import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import mini_study

from vitquant.cli import main
from vitquant.data.prepared import Prepared

STAGES = [
    "check",
    "machine",
    "fetch",
    "prepare",
    "baseline",
    "quantize",
    "evaluate",
    "benchmark",
    "profile",
    "tails",
    "report",
    "summary",
    "recommend",
    "diff",
]


def vitquant(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vitquant.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def invoke(*arguments: str, cwd: Path) -> Result:
    """Likewise, in this process, which has imported the libraries."""
    with contextlib.chdir(cwd):
        return CliRunner().invoke(main, arguments)


@pytest.fixture
def study(images: Path, tmp_path: Path) -> dict:
    study = mini_study(images)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    return study


def test_help_lists_every_stage(tmp_path: Path) -> None:
    result = vitquant("--help", cwd=tmp_path)
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert set(STAGES) <= set(listed)
    assert "..." not in result.stdout.partition("Stages:")[2]  # no sentence is cut off
    for stage in STAGES:
        assert stage in invoke(stage, "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["prepare", "--raw", "none", "--out", "out"], 1, "Error: none: No such file or directory"),
        (["prepare", "--raw", "none"], 2, "Missing option '--out'"),
        (["quantise"], 2, "No such command 'quantise'"),
        (
            ["quantize", "int3", "--fp32", "none", "--data", "none", "--out", "out"],
            1,
            "Error: unknown recipe 'int3': params.yaml has dynamic-int8, fp32",
        ),
        (
            ["quantize", "fp32", "--fp32", "none", "--data", "none", "--out", "out"],
            1,
            "Error: none/classes.json is missing",
        ),
        (["--params", "other.yaml", "prepare", "--raw", "r", "--out", "o"], 1, "Error: other.yaml is missing"),
        (["summary"], 1, "Error: results/findings.json is missing: run `dvc repro` to make it"),
        (["recommend", "--max-drop", "0.3"], 1, "Error: results/findings.json is missing: run `dvc repro` to make it"),
        (["recommend", "--max-drop", "none"], 2, "'none' is not a valid float"),
        (["machine", "--out", "params.yaml/machine.json"], 1, "Error: params.yaml"),
    ],
)
def test_an_error_is_one_line(study: dict, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    result = invoke(*arguments, cwd=tmp_path)
    assert result.exit_code == code
    assert message in result.stderr
    assert isinstance(result.exception, SystemExit)
    if code == 1:
        assert len(result.stderr.splitlines()) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["params.yaml"]


def test_a_mistake_in_a_recipe_shows_before_the_work_begins(study: dict, tmp_path: Path) -> None:
    study["recipes"]["dynamic-int8"]["per_chanel"] = True
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    result = invoke("check", cwd=tmp_path)
    assert result.exit_code == 1
    assert result.stderr == "Error: params.yaml: recipes.dynamic-int8: per_chanel: unknown key\n"


@pytest.mark.parametrize(
    ("section", "name", "recipe", "message"),
    [
        ("recipes", "fp32", {"method": "int8_weight_only"}, "recipes.fp32: the baseline must be eager FP32"),
        ("cuda", "fp32", {"method": "fp64"}, "cuda.recipes.fp32.method: unknown recipe method 'fp64'"),
        ("recipes", "dynamic-int8", {"method": "fp32"}, "that name is the seed report's recipe"),
        (
            "cuda",
            "weights",
            {"method": "int8_weight_only"},
            "params.yaml: cuda.recipes.weights.method: int8_weight_only runs on CPUs alone: take it out",
        ),
    ],
)
def test_recipes_that_cannot_be(
    study: dict, tmp_path: Path, section: str, name: str, recipe: dict, message: str
) -> None:
    recipes = study["recipes"] if section == "recipes" else study["cuda"]["recipes"]
    recipes[name] = recipe
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    result = invoke("check", cwd=tmp_path)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_model_that_timm_does_not_have_shows_before_the_work_begins(study: dict, tmp_path: Path) -> None:
    study["model"]["name"] = "resnet18"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    result = invoke("check", cwd=tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: model.name: 'resnet18' is of timm's module resnet: ")


def test_so_does_another_that_is_timed_alone(study: dict, tmp_path: Path) -> None:
    study["cuda"]["speed_only"] = ["test_vit", "vit_bass_patch14_dinov2"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    result = invoke("check", cwd=tmp_path)
    assert result.exit_code == 1
    said = "Error: params.yaml: cuda.speed_only: timm has no ViT 'vit_bass_patch14_dinov2': did you mean "
    assert result.stderr.startswith(said)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{}", " has version 1 of the format, this is vitquant with version 3"),
        ("[]", " is no file of results, this is vitquant with version 3"),
        ('{"version": 2}', ": study: missing"),
    ],
)
def test_findings_that_are_none(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/findings.json").write_text(content)
    for command in (["summary"], ["recommend", "--max-drop", "0.3"]):
        result = invoke(*command, cwd=tmp_path)
        assert result.exit_code == 1
        assert result.stderr == f"Error: results/findings.json{problem}: make it again with `dvc repro`\n"


@pytest.mark.parametrize(
    "encoding",
    [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
@pytest.mark.parametrize("arguments", [["summary"], ["recommend", "--max-drop", "1"], ["--help"]])
def test_output_that_cannot_hold_all_characters(encoding: dict[str, str], arguments: list[str]) -> None:
    command = [sys.executable, "-c", "from vitquant.cli import main; main()", *arguments]
    repository = Path(__file__).parents[1]
    result = subprocess.run(command, cwd=repository, env=os.environ | encoding, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.strip()


def test_a_full_temporary_folder_is_named(fp32: Path, prepared: Prepared, study: dict, tmp_path: Path) -> None:
    study["recipes"]["onnxruntime"] = {"method": "onnxruntime", "precision": "int8"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mount = subprocess.run(command, capture_output=True, text=True, check=False)
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mount.stderr.strip()}")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(disk))
            paths = ["--fp32", fp32, "--data", prepared.path, "--out", "artifact"]
            result = vitquant("quantize", "onnxruntime", *paths, cwd=tmp_path)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: No space left on device: make room where the results go")
    assert f"in {disk} (or set TMPDIR to another folder)" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*artifact*"))


def test_control_c_in_a_stage_is_one_line(fp32: Path, prepared: Prepared, study: dict, tmp_path: Path) -> None:
    study["recipes"]["compiled"] = {"method": "compiled", "dtype": "float32"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-c", "from vitquant.cli import main; main()", "quantize", "compiled"]
    command += ["--fp32", str(fp32), "--data", str(prepared.path), "--out", "artifact"]
    environment = os.environ | {"VITQUANT_CACHE": str(tmp_path / "cache")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # which a test that compiled in this process has left
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    while run.poll() is None and not list(tmp_path.glob("cache/inductor/.scratch-*")):  # it compiles
        time.sleep(0.05)
    assert run.poll() is None, run.communicate()
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate()
    assert (run.returncode, errors) == (1, b"\nAborted!\n")
    assert not [path for path in tmp_path.rglob(".*") if "scratch" in path.name or "artifact" in path.name]
    assert [path.suffix for path in (tmp_path / "cache/compiled").iterdir()] == [".lock"]
