"""A stage depends on exactly what it imports: the links under dependencies/ are those of the import graph."""

import ast
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src/vitquant"


@pytest.fixture(scope="module")
def update() -> ModuleType:
    spec = importlib.util.spec_from_file_location("update", REPOSITORY / "dependencies/update.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(folder: str) -> set[str]:
    """What a stage's links lead to, relative to the package."""
    found = [path.resolve() for path in (REPOSITORY / "dependencies" / folder).iterdir()]
    return {path.relative_to(PACKAGE).as_posix() for path in found}


def imported(file: Path) -> set[Path]:
    """The project's files that a file imports, read from its text without the tool that makes the links."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.partition(".")[0] == "vitquant":
                path = PACKAGE.joinpath(*name.split(".")[1:])
                found |= {place for place in (path.with_suffix(".py"), path / "__init__.py") if place.is_file()}
    return found


def test_the_links_are_the_imports(update: ModuleType) -> None:
    assert update.differences(update.wanted()) == {}


def test_every_stage_has_its_links_and_what_they_import_is_linked_too(update: ModuleType) -> None:
    exempt = {update._source(module) for module in update.EXEMPT}
    stages = [path.stem for path in (PACKAGE / "stages").glob("*.py") if path.stem not in ("__init__", "common")]
    folders = [path.parent for path in (REPOSITORY / "dependencies").rglob("*stages.*")]
    assert {folder.relative_to(REPOSITORY / "dependencies").parts[0] for folder in folders} == set(stages)
    for folder in folders:
        files = {path.resolve() for path in folder.iterdir()}
        needed = {place for file in files if file.suffix == ".py" for place in imported(file)} - exempt
        code = {place for place in needed if len(ast.parse(place.read_text("utf-8")).body) > 1}
        assert code <= files, folder


@pytest.mark.parametrize(
    ("folder", "held", "left_out"),
    [
        ("quantize/vitquant_int8", "runtime/native/linear.h", "engines/inductor.py"),
        ("quantize/dynamic_int8", "data/prepared.py", "runtime/native/linear.h"),
        ("evaluate/static_int8", "engines/inductor.py", "engines/onnx_export.py"),
        ("evaluate/openvino", "measure/accuracy.py", "quantization/rounding.py"),
        ("benchmark", "runtime/native/linear.h", "recipes/eight_bit.py"),
        ("benchmark_cuda", "recipes/vitquant_gpu/linear.py", "recipes/openvino.py"),
        ("baseline", "images.py", "recipes/__init__.py"),
        ("report", "report/template.md", "artifact.py"),
        ("tails", "runtime/native/linear.h", "report/template.md"),
        ("tails", "analysis/recommend.py", "measure/benchmark.py"),
        ("prepare", "wheels.py", "data/prepared.py"),
    ],
)
def test_what_a_stage_depends_on_and_what_not(folder: str, held: str, left_out: str) -> None:
    assert held in links(folder)
    assert left_out not in links(folder)
    assert (PACKAGE / left_out).is_file()


LAYERS = (  # none imports one of an earlier row
    ("cli",),
    ("stages", "commands"),
    ("experiment", "quantized", "new_study"),
    ("progress",),
    ("stage_times",),
    ("report", "serving"),
    ("analysis", "monitoring"),
    ("measure",),
    ("recipes",),
    ("engines", "quantization"),
    ("models", "inputs"),
    ("results", "parallel"),
    ("predictor", "runtime", "calibration", "reference"),
    ("data", "artifact"),
    ("images", "params", "traits", "wheels", "downloads", "cache", "yaml_files", "files", "cpu", "pool"),
    ("validation",),
    ("urls", "zips"),
    ("errors",),
)


def test_imports_point_one_way() -> None:
    height = {name: level for level, row in enumerate(LAYERS) for name in row}
    assert set(height) == {path.stem for path in PACKAGE.iterdir()} - {"__init__", "__pycache__", "py"}
    for file in PACKAGE.rglob("*.py"):
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for other in imported(file):
            room = other.relative_to(PACKAGE).parts[0].removesuffix(".py")
            if room not in (own, "__init__"):
                assert height[own] <= height[room], f"{file} imports {other}"


def test_dvc_yaml_names_them() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        folder = f"dependencies/{name}" + ("/${item.method}" if "foreach" in stage else "")
        dependencies = stage.get("do", stage)["deps"]
        assert folder in dependencies
        assert not [path for path in dependencies if path.startswith("src/")]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project's code and links."""
    root = tmp_path / "copy"
    for name in ("src", "dependencies"):
        shutil.copytree(REPOSITORY / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "params.yaml", root)
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "dependencies/update.py"), *arguments]
    environment = {"PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_no_error(option: str) -> None:
    found = run(REPOSITORY, option)
    assert (found.returncode, found.stderr) == (0, "")
    assert "dependencies/update.py --check " in found.stdout


def test_what_differs_is_named_and_mended(copy: Path) -> None:
    """A new import, a link too many, one that leads elsewhere, a file in its place, a method that became a folder."""
    fp32, links = copy / "src/vitquant/recipes/fp32.py", copy / "dependencies"
    fp32.write_text(fp32.read_text() + "\n\ndef later() -> None:\n    from vitquant import cache\n")
    (links / "report/artifact").symlink_to("../../src/vitquant/artifact.py")
    (links / "evaluate/removed").mkdir()
    (links / "evaluate/removed/recipes").symlink_to("../nothing")
    (links / "machine/cpu").unlink()
    (links / "machine/cpu").symlink_to("../../src/vitquant/files.py")
    (links / "fetch/wheels").unlink()
    shutil.copy(copy / "src/vitquant/wheels.py", links / "fetch/wheels")
    compiled = copy / "src/vitquant/recipes/compiled"
    compiled.mkdir()
    compiled.with_suffix(".py").rename(compiled / "__init__.py")
    found = run(copy, "--check")
    assert found.returncode == 1
    for line in (
        "dependencies/evaluate/fp32/cache is missing: it is imported",
        "dependencies/report/artifact is superfluous: it is not imported",
        "dependencies/evaluate/removed/recipes is superfluous: it is not imported",
        "dependencies/machine/cpu does not lead to ../../src/vitquant/cpu.py",
        "dependencies/fetch/wheels does not lead to ../../src/vitquant/wheels.py",
        "dependencies/quantize/compiled/recipes.compiled does not lead to",
    ):
        assert line in found.stderr
    assert found.stderr.endswith("run `make dependencies`\n")
    assert run(copy).returncode == 0
    assert run(copy, "--check").returncode == 0
    assert (links / "evaluate/fp32/cache").resolve() == copy / "src/vitquant/cache.py"
    assert not (links / "evaluate/removed").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("params.yaml", "recipes: {", "params.yaml is not valid YAML"),
        ("params.yaml", "{}", "params.yaml: study: missing"),
        ("src/vitquant/cpu.py", "def broken(:", "Syntax error in "),
    ],
)
def test_what_cannot_be_read_ends_in_one_line(copy: Path, file: str, content: str, message: str) -> None:
    (copy / file).write_text(content)
    found = run(copy)
    assert found.returncode == 1
    assert found.stderr.startswith("Error: ")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_unknown_arguments_are_named() -> None:
    assert "unknown arguments --chek" in run(REPOSITORY, "--chek").stderr
