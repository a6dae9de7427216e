"""The files outside of the pipeline that the study reads: images, `data.path`; weights and classes, `model.…`.

DVC does not see them, since they are no dependency that dvc.yaml could name. Their fingerprint is one: stage `fetch`
depends on it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitquant import files, yaml_files
from vitquant.data import folder
from vitquant.errors import VitquantError
from vitquant.params import FileModel, FolderData, Params, TimmModel

CHEAP = 100_000_000  # bytes that are read whole; of more, sizes and modification times are compared


def paths(params: Params) -> dict[str, Path]:
    """What the study reads, by the key that names it."""
    found = {}
    if isinstance(params.data, FolderData):
        found["data.path"] = Path(params.data.path)
    if isinstance(params.model, FileModel):
        found["model.path"] = Path(params.model.path)
    if isinstance(params.model, FileModel | TimmModel) and params.model.classes:
        found["model.classes"] = Path(params.model.classes)
    return found


def check(params: Params, pipeline: Path) -> None:
    """See that what the study reads is there, and that DVC, which deletes what a stage writes, would not delete it.

    Args:
        pipeline: dvc.yaml; where there is none, nothing is deleted.

    Raises:
        VitquantError: a path of the study's is, lies in, or holds an output of a stage, by any link; or there is none.
    """
    outputs = list(_outputs(pipeline)) if pipeline.is_file() else []
    for key, path in paths(params).items():
        try:
            place = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a link to itself, or characters that no path has
            raise VitquantError(f"{key}: {str(path)!r} leads nowhere ({error}): name another") from None
        for output in outputs:
            own = (pipeline.parent / output).resolve()
            if place.is_relative_to(own) or own.is_relative_to(place):
                raise VitquantError(
                    f"{key}: {path} {'is' if place == own else 'lies in' if place.is_relative_to(own) else 'holds'} "
                    f"{output}, which DVC deletes before the stage that writes it runs: move your files to a folder "
                    "outside of data/raw, models and results, and name that"
                )
        _see(key, path)


def fingerprint(params: Params) -> dict[str, Any]:
    """By key, what tells whether the files below its path have changed: their number, their bytes, and a digest.

    The digest is of names and contents, or, beyond CHEAP bytes, of names, sizes and modification times.

    Raises:
        VitquantError: there is no such file or folder.
    """
    return {key: _state(key, path) for key, path in paths(params).items()}


def _see(key: str, path: Path) -> None:
    kind, is_there = ("folder", path.is_dir()) if key == "data.path" else ("file", path.is_file())
    if not is_there:
        raise VitquantError(f"{key}: {path} is not a {kind}: name the one to use")


def _state(key: str, path: Path) -> dict[str, Any]:
    _see(key, path)
    sizes = {file: file.stat() for file in (folder.images(path) if path.is_dir() else [path]) if file.is_file()}
    total = sum(stat.st_size for stat in sizes.values())
    digest = hashlib.sha256()
    for file, stat in sizes.items():
        state = files.sha256(file) if total <= CHEAP else f"{stat.st_size} {stat.st_mtime_ns}"
        digest.update(f"{files.as_text(file.relative_to(path).as_posix())}\0{state}\n".encode())
    return {"files": len(sizes), "bytes": total, "digest": digest.hexdigest()}


def _outputs(pipeline: Path) -> Iterator[str]:
    """The paths that the stages write, up to the first that a recipe's name would fill in."""
    stages = yaml_files.read(pipeline)["stages"].values()
    for stage in [stage.get("do", stage) for stage in stages]:
        for output in [*stage.get("outs", []), *stage.get("metrics", [])]:
            path = output if isinstance(output, str) else next(iter(output))
            yield path.partition("${")[0].rstrip("/")
