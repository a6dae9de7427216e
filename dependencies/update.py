"""What each stage of dvc.yaml depends on in the code: a folder of links to the files that its script imports.

DVC hashes the files that the links lead to, so that a stage reruns when one of them changes, and only then.
`dependencies/<stage>` holds everything that the stage's script imports, in functions too, and the data files beside
those modules that they name, or that lie in a folder there that they name; `quantize/<method>` and `evaluate/<method>`
the recipe's method, which is loaded by its name, as well, and fp32's where the baseline is loaded too; `benchmark`,
`profile`, `tails` and `benchmark_cuda` the methods that params.yaml names.

    python dependencies/update.py            make the links what the imports are
    python dependencies/update.py --check    exit with 1 where they are not
"""

import ast
import os
import sys
from pathlib import Path

import grimp

from vitquant import params
from vitquant.errors import VitquantError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "vitquant"
HERE = Path(__file__).parent
EXEMPT = {  # what cannot change a result, and why
    "vitquant.errors": "two classes of exceptions",
    "vitquant.files": "writes and reads files whole; what is in them is its callers'",
    "vitquant.params": "reads params.yaml; DVC itself compares the values that a stage uses",
    "vitquant.stages.common": "options of the command line",
}
LOADING = ("benchmark", "profile", "tails")  # stages that load the recipes of params.yaml


def wanted() -> dict[Path, str]:
    """The links, by their path below `dependencies`, and what each holds: the way from there to its file.

    Raises:
        VitquantError: params.yaml is not valid, or names a method that there is not; or a source file is not Python.
    """
    try:
        graph = grimp.build_graph("vitquant", exclude_type_checking_imports=True, cache_dir=None)
    except grimp.exceptions.SourceSyntaxError as error:
        raise VitquantError(str(error)) from None
    stages, methods = ({child.rpartition(".")[2] for child in graph.find_children(f"vitquant.{room}")}
                       for room in ("stages", "recipes"))  # fmt: skip
    study = params.load(ROOT / "params.yaml")
    named = {recipe.method for recipe in study.recipes.values()}
    on_gpu = {recipe.method for recipe in study.cuda.recipes.values()}
    unknown = (named | on_gpu) - methods
    if unknown:
        raise VitquantError(f"params.yaml: there is no method {sorted(unknown)[0]!r}: run `vitquant check`")
    folders: dict[str, set[str]] = {stage: set() for stage in stages if f"vitquant.stages.{stage}" not in EXEMPT}
    folders |= dict.fromkeys(LOADING, named) | {"benchmark_cuda": on_gpu}
    for stage, beside in (("quantize", set()), ("evaluate", {"fp32"})):  # the baseline tells what is too slow
        folders |= {f"{stage}/{method}": {method} | beside for method in methods}
        del folders[stage]
    links = {}
    for folder, loaded in folders.items():
        roots = [f"vitquant.stages.{folder.partition('/')[0]}", *(f"vitquant.recipes.{method}" for method in loaded)]
        for file in files(graph, roots):
            links[Path(folder) / _name(file)] = os.path.relpath(PACKAGE / file, HERE / folder)
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
    """Files beside `source` that are no Python and whose names it holds as strings, and those of folders likewise."""
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    named = [place for place in source.parent.iterdir() if place.suffix != ".py" and place.name in strings]
    return [file for place in named for file in ([place] if place.is_file() else place.iterdir())
            if file.suffix not in (".py", "")]  # fmt: skip


def _name(file: Path) -> str:
    """A link's name: the file's path with dots; without .py, so that no tool takes it for a module of its own."""
    return ".".join(file.with_suffix("").parts if file.suffix == ".py" else file.parts).removesuffix(".__init__")


def differences(links: dict[Path, str]) -> dict[Path, str]:
    """What is not as `links` say, by its path below `dependencies`, and in which way."""
    there = {path.relative_to(HERE) for folder in HERE.iterdir() if folder.is_dir() for path in folder.rglob("*")
             if path.is_symlink() or not path.is_dir()}  # fmt: skip
    there = {path for path in there if path.parts[0] != "__pycache__"}
    found = dict.fromkeys(links.keys() - there, "is missing: it is imported")
    found |= dict.fromkeys(there - links.keys(), "is superfluous: it is not imported")
    for path in there & links.keys():
        if not (HERE / path).is_symlink() or (HERE / path).readlink() != Path(links[path]):
            found[path] = f"does not lead to {links[path]}"
    return dict(sorted(found.items()))


def update(links: dict[Path, str]) -> None:
    """Make the links what `links` say, and delete all else."""
    for path in differences(links):
        place = HERE / path
        place.unlink(missing_ok=True)
        if path in links:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(links[path])
        elif not any(place.parent.iterdir()):
            place.parent.rmdir()


def main(arguments: list[str]) -> None:
    """Update the links, or check them."""
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return
    if arguments not in ([], ["--check"]):
        sys.exit(f"Error: unknown arguments {' '.join(arguments)}: there is only --check")
    try:
        links = wanted()
    except VitquantError as error:
        sys.exit(f"Error: {error}")
    if not arguments:
        update(links)
    elif found := differences(links):
        lines = [f"dependencies/{path} {how}" for path, how in found.items()]
        sys.exit("\n".join([*lines, "Error: the links are not what the imports are: run `make dependencies`"]))


if __name__ == "__main__":
    main(sys.argv[1:])
