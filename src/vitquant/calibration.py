"""The images that a person gives for calibration, in any of the forms that training code has them in."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.errors import VitquantError
from vitquant.images import ImageSource, Preprocessing

MOST = 128  # calibration images, as in the study
Images = Tensor | NDArray[Any] | Sequence[ImageSource] | Iterable[Any]


def given(images: Images) -> Tensor | Sequence[ImageSource] | NDArray[np.uint8]:
    """The first images: preprocessed ones as one tensor, float32 (N, …) on the CPU; others as they are.

    Raises:
        VitquantError: there are none, or what is there are no images.
    """
    if isinstance(images, np.ndarray) and np.issubdtype(images.dtype, np.floating):
        images = torch.from_numpy(images)
    if isinstance(images, str | bytes | os.PathLike | Mapping) or not isinstance(images, Iterable):
        raise VitquantError(
            f"calibration images: {type(images).__name__} is none of their forms: give a tensor, float (N, 3, H, W), "
            "batches of those, or a list of image files"
        )
    is_list = isinstance(images, list | tuple) and images and not isinstance(images[0], Tensor | list | tuple)
    whole: Any = images
    found: Tensor | list[ImageSource] | NDArray[np.uint8]
    found = whole[:MOST] if is_list or isinstance(images, np.ndarray) else _joined(images)
    if not len(found):
        raise VitquantError("there are no calibration images: give about 128 of those that the model will see")
    return found


def _joined(images: Tensor | Iterable[Any]) -> Tensor:
    """The first of batches, each (N, 3, H, W), as one, float32."""
    batches: list[Tensor] = []
    for batch in [images] if isinstance(images, Tensor) else images:
        inputs = batch[0] if isinstance(batch, list | tuple) and batch else batch  # of a DataLoader: images and labels
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            found = f"{inputs.dtype} {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise VitquantError(
                "calibration images must be float (N, 3, H, W), as the model takes them, or image files: not " + found
            )
        if batches and inputs.shape[1:] != batches[0].shape[1:]:
            raise VitquantError(
                f"calibration images differ in shape: {tuple(batches[0].shape[1:])} and {tuple(inputs.shape[1:])}"
            )
        batches.append(inputs.detach().float().cpu())
        if sum(map(len, batches)) >= MOST:
            break
    return torch.cat(batches)[:MOST].contiguous() if batches else torch.empty(0)


def prepared(images: Any, preprocessing: Preprocessing) -> NDArray[Any]:
    """Images of `given` as recipes take them: uint8 (N, H, W, 3), or preprocessed, float32 (N, 3, H, W)."""
    if not isinstance(images, Tensor):
        return preprocessing.batch(images, "the model")
    side = preprocessing.crop
    if images.shape[1:] != (3, side, side):
        raise VitquantError(
            f"calibration images must be float (N, 3, {side}, {side}), as the model takes them, or image files: not "
            f"{tuple(images.shape)}"
        )
    finite = images.isfinite().all(dim=(1, 2, 3))
    if not finite.all():
        raise VitquantError(f"calibration image {int(finite.int().argmin())} (from 0) holds NaN or infinity")
    return images.numpy()
