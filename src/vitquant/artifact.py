"""An artifact: a directory that holds a runnable classifier.

`recipe.json` says what it is (recipe, options, preprocessing, classes, versions) and carries the SHA-256 of
every other file; those hold the weights, in formats that load without running code from the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitquant import files
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.images import ImageSource, Preprocessing
from vitquant.traits import Traits
from vitquant.validation import describe

SPEC_FILE = "recipe.json"
WEIGHTS_FILE = "model.safetensors"
CPU = torch.device("cpu")


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


class Predictor:
    """A loaded artifact: image files, or uint8 images (N, H, W, 3), in, float32 logits (N, C) out.

    `outputs` gives the class token as well. `forward` is the model alone, on preprocessed images; it is what the
    benchmark times.
    """

    def __init__(self, artifact: Artifact, forward: Callable[[Tensor], Tensor], device: torch.device = CPU) -> None:
        self.artifact = artifact
        self.device = device
        self._forward = forward

    def preprocess(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """Normalise uint8 images (N, H, W, 3) to the model's input, float32 (N, 3, H, W), on its device.

        Raises:
            VitquantError: images of another shape or type.
        """
        preprocessing = self.artifact.spec.preprocessing
        side = preprocessing.crop
        if images.dtype not in (np.uint8, torch.uint8) or images.shape[1:] != (side, side, 3):
            raise VitquantError(
                f"{self.artifact.path} takes uint8 images of shape (N, {side}, {side}, 3), "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        tensor = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
        return preprocessing.normalise(tensor.to(self.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Preprocessed images, float32 (N, 3, H, W), to logits and class token, float32 (N, C + D)."""
        with torch.inference_mode():
            return self._forward(inputs)

    def __call__(self, images: NDArray[np.uint8] | Tensor | Sequence[ImageSource]) -> NDArray[np.float32]:
        """Predict: a batch of uint8 images (N, H, W, 3), or a list of image files, their contents, or Pillow's images.

        Returns:
            The logits, float32 (N, C).

        Raises:
            UndecodableError, VitquantError, OSError: as `outputs`.
        """
        return self.outputs(images)[:, : len(self.artifact.spec.classes)]

    def outputs(self, images: NDArray[np.uint8] | Tensor | Sequence[ImageSource]) -> NDArray[np.float32]:
        """Logits, and beside them the class token after the backbone's last norm, float32 (N, C + D).

        Args:
            images: a batch of uint8 images (N, H, W, 3), or a list of image files, their contents, or Pillow's images.

        Raises:
            UndecodableError: one of the list is no image.
            VitquantError: images that `preprocess` refuses, no list, an empty one, or outputs that are not finite.
            OSError: a file cannot be read.
        """
        if not isinstance(images, np.ndarray | Tensor | list | tuple):
            raise VitquantError(f"give images as a list, or as an array, not as {type(images).__name__}")
        if not len(images):
            raise VitquantError("there is no image to predict")
        if not isinstance(images, np.ndarray | Tensor):
            images = np.stack([self.artifact.spec.preprocessing.pixels(image) for image in images])
        outputs: NDArray[np.float32] = self.forward(self.preprocess(images)).cpu().numpy()
        if not np.isfinite(outputs).all():  # the head reads the class token, too
            raise VitquantError(f"{self.artifact.path} gives NaN or infinite logits: its weights are broken")
        return outputs


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


def open_artifact(path: Path) -> Artifact:
    """Read recipe.json and verify every file against it.

    Raises:
        VitquantError: a file is missing, truncated or changed.
    """
    mend = "make it again with `dvc repro`"
    if not path.is_dir():
        raise VitquantError(f"{path} is not an artifact directory: {mend}")
    content = files.read_json(path / SPEC_FILE)
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


def write_weights(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Save tensors as safetensors in an artifact directory.

    Raises:
        VitquantError: a tensor holds NaN or infinity, or the disk is full.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():  # FP8 has no isfinite
            raise VitquantError(f"{name} holds NaN or infinity: the weights are broken, nothing was written")
    file = directory / WEIGHTS_FILE
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    except SafetensorError as error:
        raise VitquantError(f"{file} cannot be written: {error}") from None


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of an artifact directory that `open_artifact` has verified.

    Raises:
        VitquantError: it has no weights, or not in that format.
    """
    file = directory / WEIGHTS_FILE
    try:
        return load_file(file)
    except FileNotFoundError:
        raise VitquantError(f"{file} is missing: make it again with `dvc repro`") from None
    except SafetensorError as error:
        raise VitquantError(f"{file} is no safetensors file ({error}): make it again with `dvc repro`") from None
