"""An artifact that PyTorch runs, or runs beside: its weights as tensors, and what is loaded of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitquant.artifact import WEIGHTS_FILE, Artifact
from vitquant.errors import MAKE_AGAIN, VitquantError
from vitquant.images import ImageSource

CPU = torch.device("cpu")


class Predictor:
    """A loaded artifact: image files, or uint8 images (N, H, W, 3), in, float32 logits (N, C) out.

    Without classes it gives embeddings, float32 (N, D). `outputs` gives both. `forward` is the model alone, on
    preprocessed images; it is what the benchmark times.
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
        preprocessing.check(images, str(self.artifact.path))
        tensor = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
        return preprocessing.normalise(tensor.to(self.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Preprocessed images, float32 (N, 3, H, W), to logits and embedding, float32 (N, C + D)."""
        with torch.inference_mode():
            return self._forward(inputs)

    def __call__(self, images: NDArray[np.uint8] | Tensor | Sequence[ImageSource]) -> NDArray[np.float32]:
        """Predict: a batch of uint8 images (N, H, W, 3), or a list of image files, their contents, or Pillow's images.

        Returns:
            The logits, float32 (N, C); of a model without classes the embeddings, float32 (N, D).

        Raises:
            UndecodableError, VitquantError, OSError: as `outputs`.
        """
        return self.outputs(images)[:, : len(self.artifact.spec.classes) or None]

    def outputs(self, images: NDArray[np.uint8] | Tensor | Sequence[ImageSource]) -> NDArray[np.float32]:
        """Logits, and beside them the embedding, float32 (N, C + D).

        It is what the classifier reads of the backbone, of two tokens the first: of most ViTs the class token after the
        last norm.

        Args:
            images: a batch of uint8 images (N, H, W, 3), or a list of image files, their contents, or Pillow's images.

        Raises:
            UndecodableError: one of the list is no image.
            VitquantError: images that `preprocess` refuses, no list, an empty one, or outputs that are not finite.
            OSError: a file cannot be read.
        """
        if not isinstance(images, Tensor):
            images = self.artifact.spec.preprocessing.batch(images, str(self.artifact.path))
        outputs: NDArray[np.float32] = self.forward(self.preprocess(images)).cpu().numpy()
        self.artifact.check_outputs(outputs)
        return outputs


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
        raise VitquantError(f"{file} is missing: {MAKE_AGAIN}") from None
    except SafetensorError as error:
        raise VitquantError(f"{file} is no safetensors file ({error}): {MAKE_AGAIN}") from None
