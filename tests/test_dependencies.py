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
    assert update.differences(update.wanted()) == []


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
        ("quantize/vitquant_int8", "recipes/vitquant_int8/kernels.cpp", "engines/inductor.py"),
        ("quantize/dynamic_int8", "data/prepared.py", "recipes/vitquant_int8/kernels.cpp"),
        ("evaluate/static_int8", "engines/inductor.py", "engines/onnx_export.py"),
        ("evaluate/openvino", "measure/statistics.py", "quantization/rounding.py"),
        ("benchmark", "recipes/vitquant_int8/kernels.cpp", "recipes/eight_bit/__init__.py"),
        ("benchmark_cuda", "recipes/eight_bit/triton_linear.py", "recipes/openvino.py"),
        ("baseline", "images.py", "recipes/__init__.py"),
        ("report", "report/template.md", "artifact.py"),
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
    ("experiment",),
    ("report",),
    ("measure",),
    ("recipes",),
    ("engines", "quantization"),
    ("models",),
    ("data", "parallel", "artifact"),
    ("images", "params", "traits", "wheels", "downloads", "files", "cpu"),
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


def test_a_new_import_and_a_link_too_many_are_named_and_mended(tmp_path: Path) -> None:
    """In a copy of the project."""
    copy = tmp_path / "copy"
    for name in ("src", "dependencies"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, copy / name, symlinks=True, ignore=ignore)
    shutil.copy(REPOSITORY / "params.yaml", copy)
    fp32 = copy / "src/vitquant/recipes/fp32.py"
    fp32.write_text(fp32.read_text() + "\n\ndef later() -> None:\n    from vitquant.engines import cache\n")
    (copy / "dependencies/report/artifact").symlink_to("../../src/vitquant/artifact.py")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(copy / "dependencies/update.py"), *arguments]
        return subprocess.run(
            command, env={"PYTHONPATH": str(copy / "src")}, capture_output=True, text=True, check=False
        )

    found = run("--check")
    assert found.returncode == 1
    assert "evaluate/fp32/engines.cache is missing: it is imported" in found.stderr
    assert "report/artifact is superfluous: it is not imported" in found.stderr
    assert found.stderr.endswith("run `make dependencies`\n")
    assert run().returncode == 0
    assert run("--check").returncode == 0
    assert (copy / "dependencies/evaluate/fp32/engines.cache").resolve() == copy / "src/vitquant/engines/cache.py"
    assert not (copy / "dependencies/report/artifact").exists()
