"""An artifact of vitquant-int8, loaded without PyTorch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from vitquant import cpu
from vitquant.artifact import SPEC_FILE, WEIGHTS_FILE, Artifact, open_artifact
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.images import ImageSource
from vitquant.runtime import description
from vitquant.runtime.description import MEND
from vitquant.runtime.library import Library
from vitquant.runtime.network import Network, check_threads

METHOD = "vitquant_int8"


class Classifier:
    """Image files, or uint8 images (N, H, W, 3), in, float32 logits (N, C) out; may be called from several threads.

    Without classes it gives embeddings, float32 (N, D).

    Args:
        artifact: opened.
        packed: its network.
        threads: that a call runs on, from 1 to 1024.

    Raises:
        VitquantError: another number of threads.
    """

    def __init__(self, artifact: Artifact, packed: Network, threads: int) -> None:
        check_threads(threads)
        self.artifact, self.threads = artifact, threads
        self._network = packed

    @property
    def classes(self) -> list[str]:
        """Their names, in the order of the logits."""
        return self.artifact.spec.classes

    def preprocess(self, images: NDArray[np.uint8] | Sequence[ImageSource]) -> NDArray[np.float32]:
        """To the model's input, float32 (N, 3, H, W).

        Args:
            images: uint8 (N, H, W, 3), or a list of image files, their contents, or Pillow's images.

        Raises:
            UndecodableError: one of the list is no image.
            VitquantError: an array of another shape or type, no list, or an empty one.
            OSError: a file cannot be read.
        """
        preprocessing = self.artifact.spec.preprocessing
        return preprocessing.normalised(preprocessing.batch(images, str(self.artifact.path)))

    def forward(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocessed images, float32 (N, 3, H, W), to logits and embedding, float32 (N, C + D).

        Raises:
            VitquantError: an array of another shape or type, or none.
        """
        return self._network.forward(inputs, self.threads)

    def __call__(self, images: NDArray[np.uint8] | Sequence[ImageSource]) -> NDArray[np.float32]:
        """Predict: the logits, float32 (N, C); without classes the embeddings, float32 (N, D).

        Args:
            images: as `preprocess` takes them.

        Raises:
            UndecodableError, OSError: as `preprocess`.
            VitquantError: likewise, or logits that are not finite.
        """
        outputs = self.forward(self.preprocess(images))
        self.artifact.check_outputs(outputs)
        return outputs[:, : len(self.classes) or None]


def load(path: Path | str, threads: int | None = None) -> Classifier:
    """Open an artifact of vitquant-int8 and pack its weights for this CPU.

    Args:
        path: the artifact's directory.
        threads: that a call runs on, from 1 to 1024; as many as cores that this process may use, if not said.

    Raises:
        VitquantError: it is damaged, or of another method; or another number of threads.
        UnsupportedError: it says that it cannot run where it was made, or was made for another CPU; or there is no
            compiled code, and no compiler.
    """
    artifact = open_artifact(Path(path))
    check(artifact)
    return Classifier(artifact, read(artifact), cpu.cores() if threads is None else threads)


def check(artifact: Artifact) -> None:
    """See that an artifact is one of vitquant-int8.

    Raises:
        VitquantError: it is of another method.
        UnsupportedError: it says that it cannot run where it was made.
    """
    if artifact.spec.method != METHOD:
        raise VitquantError(f"{artifact.path} is of method {artifact.spec.method}: only {METHOD} runs without PyTorch")
    if artifact.spec.unavailable:
        raise UnsupportedError(f"{artifact.path / SPEC_FILE}: {artifact.spec.unavailable}")


def read(artifact: Artifact, library: Library | None = None) -> Network:
    """Pack an artifact's weights; none lies in memory twice.

    Args:
        library: to pack for; this CPU's, if not said.

    Raises:
        VitquantError: it has no weights, not in that format, or not those of its network; or recipe.json is of another.
        UnsupportedError: as `load`.
    """
    file, spec = artifact.path / WEIGHTS_FILE, artifact.spec
    its = description.read(artifact.path)
    pairs = {"classes": (len(spec.classes), its.classes), "preprocessing.crop": (spec.preprocessing.crop, its.side)}
    for key, (own, expected) in pairs.items():
        if own != expected:
            what = f"{key}: {own}, but {description.FILE} says {expected}"
            raise VitquantError(f"{artifact.path / SPEC_FILE}: {what}: {MEND}")
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise VitquantError(f"{file} is missing: {MEND}") from None
    except SafetensorError as error:
        raise VitquantError(f"{file} is no safetensors file ({error}): {MEND}") from None
    return Network(its, tensors, str(file), artifact.spec.architecture, library)
