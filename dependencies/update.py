"""What each stage of dvc.yaml depends on in the code: a folder of links to the files that its script imports.

DVC hashes the files that the links lead to, so that a stage reruns when one of them changes, and only then.
`dependencies/<stage>` holds everything that the stage's script imports, in functions too, and the data files beside
those modules that they name; `quantize/<method>` and `evaluate/<method>` the recipe's method, which is loaded by its
name, as well; `benchmark`, `profile` and `benchmark_cuda` the methods that params.yaml names.

    python dependencies/update.py            make the links what the imports are
    python dependencies/update.py --check    exit with 1 where they are not
"""

import ast
import os
import sys
from pathlib import Path

import grimp
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "vitquant"
EXEMPT = {  # what cannot change a result, and why
    "vitquant.errors": "two classes of exceptions",
    "vitquant.files": "writes and reads files whole; what is in them is its callers'",
    "vitquant.params": "reads params.yaml; DVC itself compares the values that a stage uses",
    "vitquant.stages.common": "options of the command line",
}
LOADING = ("benchmark", "profile")  # stages that load the recipes of params.yaml


def wanted() -> dict[Path, Path]:
    """The links, by their path below `dependencies`, to the files, by theirs below the package."""
    graph = grimp.build_graph("vitquant", exclude_type_checking_imports=True, cache_dir=None)
    stages = sorted(module.rpartition(".")[2] for module in graph.find_children("vitquant.stages"))
    methods = sorted(module.rpartition(".")[2] for module in graph.find_children("vitquant.recipes"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    named = sorted({recipe["method"] for recipe in params["recipes"].values()})
    on_gpu = sorted({recipe["method"] for recipe in params["cuda"]["recipes"].values()})
    folders: dict[str, list[str]] = {stage: [] for stage in stages if f"vitquant.stages.{stage}" not in EXEMPT}
    folders |= dict.fromkeys(LOADING, named) | {"benchmark_cuda": on_gpu}
    for stage in ("quantize", "evaluate"):
        folders |= {f"{stage}/{method}": [method] for method in methods}
        del folders[stage]
    links = {}
    for folder, loaded in folders.items():
        roots = [f"vitquant.stages.{folder.partition('/')[0]}", *(f"vitquant.recipes.{method}" for method in loaded)]
        for file in files(graph, roots):
            links[Path(folder) / _name(file)] = file
    return links


def files(graph: grimp.ImportGraph, roots: list[str]) -> set[Path]:
    """The files, relative to the package, of all modules that `roots` import, and of the data that those name."""
    modules = {module for root in roots for module in (root, *graph.find_upstream_modules(root))}
    packages = {module.rsplit(".", depth)[0] for module in modules for depth in range(1, module.count(".") + 1)}
    found = set()
    for module in (modules | packages) - EXEMPT.keys():
        tree = ast.parse(_source(module).read_text("utf-8"))
        if len(tree.body) > 1:  # else it is a docstring
            found |= {_source(module), *_data(_source(module), tree)}
    return {file.relative_to(PACKAGE) for file in found}


def _source(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _data(source: Path, tree: ast.AST) -> list[Path]:
    """Files beside `source` that are no Python and whose names it holds as strings."""
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return [file for file in source.parent.iterdir() if file.suffix not in (".py", "") and file.name in strings]


def _name(file: Path) -> str:
    """A link's name: the file's path with dots; without .py, so that no tool takes it for a module of its own."""
    return ".".join(file.with_suffix("").parts if file.suffix == ".py" else file.parts).removesuffix(".__init__")


def differences(links: dict[Path, Path]) -> list[str]:
    """Where the links that are there differ from `links`, a line each."""
    folder = Path(__file__).parent
    there = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_symlink()}
    lines = [f"{path} is missing: it is imported" for path in links.keys() - there.keys()]
    lines += [f"{path} is superfluous: it is not imported" for path in there.keys() - links.keys()]
    return sorted(lines)


def main() -> None:
    """Update the links, or check them."""
    links, folder = wanted(), Path(__file__).parent
    changes = differences(links)
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join([*changes, "run `make dependencies`"]) if changes else 0)
    for line in changes:
        path = folder / line.partition(" is ")[0]
        if "superfluous" in line:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(PACKAGE / links[path.relative_to(folder)], path.parent))


if __name__ == "__main__":
    main()
