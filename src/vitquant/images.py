"""The one way from an image to the model's input: decode, resize, crop, and normalise."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from vitquant.errors import VitquantError

if TYPE_CHECKING:
    from torch import Tensor

ImageSource = Path | bytes | Image.Image
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
    interpolation: str
    """Of the resizing: bilinear or bicubic."""
    mean: list[float]
    """Per RGB channel, on the 0 to 1 scale."""
    std: list[float]
    """Likewise."""

    def pixels(self, source: ImageSource) -> NDArray[np.uint8]:
        """Decode, resize and crop: RGB, uint8 (crop, crop, 3). May be called from several threads.

        Raises:
            UndecodableError: the file is damaged, or no image.
            OSError: the file cannot be read.
        """
        name = f"{source}: " if isinstance(source, Path) else ""
        content = source.read_bytes() if isinstance(source, Path) else source
        try:
            return self._resized(Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plug-ins raise any on a damaged file
            said = str(error).split(" <")[0] or type(error).__name__
            raise UndecodableError(f"{name}{said}") from None

    def _resized(self, image: Image.Image) -> NDArray[np.uint8]:
        """The centre of the image.

        The same pixels, to rounding, as resizing the centred square to `resize` and cropping it, but no others are
        computed; a grey-scale image is resized before it becomes RGB: the same values in a third of the time.
        """
        if image.mode in ("I", "F"):
            raise UndecodableError(
                f"its pixels are of mode {image.mode}, whose range is not known: convert it to 8 or 16 bits"
            )
        if image.mode.startswith("I;16"):  # Pillow would clip it at 255
            image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
        grey = image.mode == "L"
        source = image if grey else image.convert("RGB")
        scale = min(source.size) / self.resize
        margin = scale * ((self.resize - self.crop) // 2)
        left, top = ((side - min(source.size)) / 2 + margin for side in source.size)
        box = (left, top, left + scale * self.crop, top + scale * self.crop)
        resampling = Image.Resampling[self.interpolation.upper()]
        square = source.resize((self.crop, self.crop), resampling, box)
        return np.asarray(square.convert("RGB") if grey else square)

    def normalise(self, images: "Tensor") -> "Tensor":
        """Uint8 images (N, H, W, 3) to the model's input, float32 (N, 3, H, W), on the same device."""
        import torch

        mean, std = (torch.tensor(values, device=images.device).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        planes = images.permute(0, 3, 1, 2)
        tensor = planes.to(torch.float32, memory_format=torch.contiguous_format)
        return tensor.mul_(1 / (255 * std)).sub_(mean / std)
