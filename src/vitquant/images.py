"""The one way from an image to the model's input: decode, resize, crop, and normalise."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from vitquant.errors import VitquantError

if TYPE_CHECKING:
    from torch import Tensor

ImageSource = str | os.PathLike[str] | bytes | Image.Image
"""An image file's path or content, or an image that Pillow has opened."""


class UndecodableError(VitquantError):
    """An image that cannot be decoded; the message says why, and names the file where there is one."""


class Preprocessing(BaseModel):
    """From an image to the model's input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resize: int
    """The shorter side after resizing, pixels."""
    crop: int
    """The side of the square cut out of the centre, pixels: the model's input size."""
    interpolation: Literal["bilinear", "bicubic"]
    """Of the resizing."""
    mean: list[float]
    """Per RGB channel, on the 0 to 1 scale."""
    std: list[float]
    """Likewise."""

    def pixels(self, source: ImageSource) -> NDArray[np.uint8]:
        """Decode, resize and crop: RGB, uint8 (crop, crop, 3). May be called from several threads.

        Raises:
            UndecodableError: the file is damaged, or no image.
            VitquantError: the source is no path, no bytes and no image.
            OSError: the file cannot be read.
        """
        name = ""
        if isinstance(source, str | os.PathLike):
            name, source = f"{os.fspath(source)}: ", Path(source).read_bytes()
        if not isinstance(source, bytes | Image.Image):
            raise VitquantError(f"an image is a path, a file's bytes, or one of Pillow's: not {type(source).__name__}")
        try:
            image = _grey_or_rgb(Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plug-ins raise any on a damaged file
            said = str(error).split(" <")[0] or type(error).__name__
            raise UndecodableError(f"{name}{said}") from None
        return self._resized(image)

    def _resized(self, image: Image.Image) -> NDArray[np.uint8]:
        """The centre of a grey or RGB image.

        The same pixels, to rounding, as resizing the centred square to `resize` and cropping it, but no others are
        computed; a grey-scale image is resized before it becomes RGB: the same values in a third of the time.
        """
        scale = min(image.size) / self.resize
        margin = scale * ((self.resize - self.crop) // 2)
        left, top = ((side - min(image.size)) / 2 + margin for side in image.size)
        box = (left, top, left + scale * self.crop, top + scale * self.crop)
        resampling = Image.Resampling[self.interpolation.upper()]
        square = image.resize((self.crop, self.crop), resampling, box)
        return np.asarray(square.convert("RGB"))

    def normalise(self, images: "Tensor") -> "Tensor":
        """Uint8 images (N, H, W, 3) to the model's input, float32 (N, 3, H, W), on the same device."""
        import torch

        mean, std = (torch.tensor(values, device=images.device).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        planes = images.permute(0, 3, 1, 2)
        tensor = planes.to(torch.float32, memory_format=torch.contiguous_format)
        return tensor.mul_(1 / (255 * std)).sub_(mean / std)


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """The decoded image in mode L or RGB."""
    if not all(image.size):
        raise UndecodableError("it has no pixels")
    if image.mode in ("I", "F"):
        raise UndecodableError(
            f"its pixels are of mode {image.mode}, whose range is not known: save it with 8 bits, or as 16-bit PNG"
        )
    if image.mode.startswith("I;16"):  # Pillow would clip it at 255
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    image.load()
    return image if image.mode == "L" else image.convert("RGB")
