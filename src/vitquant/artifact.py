"""An artifact: a directory that holds a runnable classifier.

`recipe.json` says what it is (recipe, options, preprocessing, classes, versions) and carries the SHA-256 of
every other file; those hold the weights, in formats that load without running code from the file. Nothing here imports
PyTorch: vitquant.runtime opens artifacts too.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from vitquant import files
from vitquant.errors import MAKE_AGAIN, UnsupportedError, VitquantError
from vitquant.images import Preprocessing
from vitquant.traits import Traits
from vitquant.validation import describe

SPEC_FILE = "recipe.json"
WEIGHTS_FILE = "model.safetensors"
Pooling = Literal["tokens", "class", "mean", "two", "own"]
"""What becomes of the tokens after the last block: the class token and the mean patch token, concatenated; either one;
the first two tokens, concatenated (of distilled models); or what the architecture's own head makes of them before it
multiplies."""


class FileDigest(BaseModel):
    """What a file must be to be the one that was written."""

    sha256: str
    bytes: int


class Spec(BaseModel):
    """The content of recipe.json."""

    model_config = ConfigDict(extra="forbid")

    recipe: str
    method: str
    options: dict[str, Any]
    traits: Traits
    architecture: str
    preprocessing: Preprocessing
    classes: list[str]
    """None where the model gives the pooled tokens themselves."""
    pooling: Pooling = "tokens"
    details: dict[str, Any] = {}
    """What building found out: the probe's regularisation, the engine, the layers quantized."""
    no_accuracy: str | None = None
    """Why its predictions mean nothing: the head was never trained."""
    unavailable: str | None = None
    """Why there is no model: the recipe cannot run on the machine that built it."""
    versions: dict[str, str] = {}
    files: dict[str, FileDigest] = {}


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk, its digests verified when it was opened."""

    path: Path
    spec: Spec

    @property
    def sha256(self) -> str:
        """Of recipe.json, which carries those of all other files: what makes it this artifact and no other."""
        return files.sha256(self.path / SPEC_FILE)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of all that must be shipped to run it."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def check_outputs(self, outputs: NDArray[np.float32]) -> None:
        """See that what it gave, logits and class tokens, are numbers.

        Raises:
            VitquantError: some are not finite.
        """
        if not np.isfinite(outputs).all():  # the head reads the class token, too
            raise VitquantError(f"{self.path} gives NaN or infinite logits: its weights are broken")


def unfinished(spec: Spec, directory: Path, method: str, options: BaseModel) -> Artifact:
    """The artifact that a method is making in `directory`, its weights written, as its `load` will see it.

    Args:
        spec: of the FP32 artifact.
    """
    return Artifact(directory, spec.model_copy(update={"method": method, "options": options.model_dump()}))


def write(path: Path, spec: Spec, fill: Callable[[Path], dict[str, Any]]) -> None:
    """Make the artifact at `path`, whole or not at all.

    Args:
        spec: all but details, versions and files, which are added here.
        fill: writes the weights into the directory it is given and returns the details. When it raises
            UnsupportedError, the artifact says so in `unavailable` and holds nothing else.
    """
    with files.atomic(path) as partial:
        partial.mkdir()
        try:
            update: dict[str, Any] = {"details": {**spec.details, **fill(partial)}}
        except UnsupportedError as reason:
            files.remove(partial)
            partial.mkdir()
            update = {"unavailable": str(reason)}
        update["versions"] = {name: metadata.version(name) for name in ("vitquant", "torch", "timm")}
        update["files"] = {
            file.relative_to(partial).as_posix(): FileDigest(sha256=files.sha256(file), bytes=file.stat().st_size)
            for file in sorted(partial.rglob("*"))
            if file.is_file()
        }
        files.write_json(partial / SPEC_FILE, spec.model_copy(update=update).model_dump())
        for name in update["files"]:  # safetensors lets nobody else read what it writes
            shutil.copymode(partial / SPEC_FILE, partial / name)


def open_artifact(path: Path) -> Artifact:
    """Read recipe.json and verify every file against it.

    Raises:
        VitquantError: a file is missing, truncated or changed.
    """
    mend = MAKE_AGAIN
    if not path.is_dir():
        raise VitquantError(f"{path} is not an artifact directory: {mend}")
    content = files.read_json(path / SPEC_FILE, mend)
    try:
        spec = Spec.model_validate(content)
    except ValidationError as error:
        raise VitquantError(f"{path / SPEC_FILE}: {describe(error, content)}: {mend}") from None
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()} - {SPEC_FILE}
    if not spec.files and not spec.unavailable:
        raise VitquantError(f"{path / SPEC_FILE} lists no files: {mend}")
    if present - spec.files.keys():
        raise VitquantError(f"{path} holds {min(present - spec.files.keys())}, which {SPEC_FILE} does not list: {mend}")
    for name, digest in spec.files.items():
        file = path / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise VitquantError(f"{path / SPEC_FILE}: files.{name}: it lies outside of the artifact: {mend}")
        if not file.is_file():
            raise VitquantError(f"{file} is missing: {mend}")
        if file.stat().st_size != digest.bytes:
            raise VitquantError(f"{file} has {file.stat().st_size} bytes, expected {digest.bytes}: {mend}")
        if files.sha256(file) != digest.sha256:
            raise VitquantError(f"{file} has changed since it was written (SHA-256 differs): {mend}")
    return Artifact(path, spec)
