"""The one way from an image to the model's input: decode, resize, crop, and normalise."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from vitquant.errors import VitquantError

if TYPE_CHECKING:
    from torch import Tensor

ImageSource = str | os.PathLike[str] | bytes | Image.Image
"""An image file's path or content, or an image that Pillow has opened."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged images, which errors tell of
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, as Pillow names it, whatever a file's name says. Pillow knows more, which photographs do not come in
and few have looked for holes in; EPS would start Ghostscript, an interpreter, on the file."""

MAX_MEGAPIXELS = 80.0
"""Of an image, where the caller does not say otherwise: decoding it takes up to 9 bytes a pixel. Above 89, Pillow
warns."""
RGB = Field(min_length=3, max_length=3)


class UndecodableError(VitquantError):
    """An image that cannot be decoded; the message says why, and names the file where there is one."""


class Preprocessing(BaseModel):
    """From an image to the model's input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resize: PositiveInt
    """What `crop_mode` resizes to, pixels."""
    crop: PositiveInt
    """The side of the square cut out of the centre, pixels: the model's input size."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """timm's: `center` resizes the shorter side to `resize`, `squash` both, and `border` the longer; where an image
    then is smaller than the square, `border` fills it up with `mean`."""
    interpolation: Literal["bilinear", "bicubic"]
    """Of the resizing."""
    mean: Annotated[list[Annotated[float, Field(gt=-1e6, lt=1e6)]], RGB]
    """Per RGB channel, on the 0 to 1 scale."""
    std: Annotated[list[Annotated[float, Field(gt=1e-6, lt=1e6)]], RGB]
    """Likewise."""

    def pixels(self, source: ImageSource, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
        """Decode, resize and crop: RGB, uint8 (crop, crop, 3). May be called from several threads.

        Args:
            source: of an image that Pillow has opened, the caller has chosen the format and the size.
            max_megapixels: a larger image is not decoded.

        Raises:
            UndecodableError: the file is damaged, too large, or no image of FORMATS.
            VitquantError: the source is no path, no bytes and no image.
            OSError: the file cannot be read.
        """
        name = ""
        if isinstance(source, str | os.PathLike):
            name = f"{os.fspath(source)}: "
            try:
                source = Path(source).read_bytes()
            except ValueError as error:  # a NUL
                raise VitquantError(f"{os.fspath(source)!r} is no path ({error}): name an image file") from None
        if not isinstance(source, bytes | Image.Image):
            raise VitquantError(f"an image is a path, a file's bytes, or one of Pillow's: not {type(source).__name__}")
        try:
            image = _grey_or_rgb(opened(source, max_megapixels) if isinstance(source, bytes) else source)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plug-ins raise any on a damaged file
            raise UndecodableError(f"{name}{_said(error)}") from None
        return np.asarray(self._centre(image) if self.crop_mode == "center" else self._centre_of_whole(image))

    def _centre(self, image: Image.Image) -> Image.Image:
        """The centre of a grey or RGB image, its shorter side resized, in RGB.

        The same pixels, to rounding, as resizing the centred square to `resize` and cropping it, but no others are
        computed; a grey-scale image is resized before it becomes RGB: the same values in a third of the time.
        """
        shorter = min(image.size)

        def span(side: int) -> tuple[float, float]:
            whole = int(self.resize * side / shorter)
            start = side / whole * -_offset(self.crop, whole)
            return start, start + side / whole * self.crop

        (left, right), (top, bottom) = map(span, image.size)
        box = (left, top, right, bottom)
        return image.resize((self.crop, self.crop), self._resampling, box).convert("RGB")

    def _centre_of_whole(self, image: Image.Image) -> Image.Image:
        """The centre of a grey or RGB image, squashed or within a border, in RGB: pixel for pixel timm's."""
        scale, squash = max(image.size) / self.resize, self.crop_mode == "squash"
        width, height = (self.resize if squash else max(1, round(side / scale)) for side in image.size)
        resized = image.resize((width, height), self._resampling).convert("RGB")
        red, green, blue = (round(255 * value) for value in self.mean)
        square = Image.new("RGB", (self.crop, self.crop), (red, green, blue))
        square.paste(resized, (_offset(self.crop, width), _offset(self.crop, height)))
        return square

    @property
    def _resampling(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def batch(self, images: NDArray[np.uint8] | Sequence[ImageSource], taker: str) -> NDArray[np.uint8]:
        """Images as the uint8 array (N, crop, crop, 3) that they are already, or by `pixels`.

        Args:
            taker: who takes them, for messages.

        Raises:
            UndecodableError, OSError: as `pixels`.
            VitquantError: neither an array nor a list, none, or an array of another shape or type.
        """
        if not isinstance(images, np.ndarray | list | tuple):
            raise VitquantError(f"give images as a list, or as an array, not as {type(images).__name__}")
        if isinstance(images, np.ndarray):
            self.check(images, taker)
        if not len(images):
            raise VitquantError("there is no image to predict")
        return images if isinstance(images, np.ndarray) else np.stack([self.pixels(image) for image in images])

    def check(self, images: Any, taker: str) -> None:
        """See that an array or a tensor is uint8 (N, crop, crop, 3).

        Raises:
            VitquantError: it is not.
        """
        side = self.crop
        if str(images.dtype).removeprefix("torch.") != "uint8" or images.shape[1:] != (side, side, 3):
            raise VitquantError(
                f"{taker} takes uint8 images of shape (N, {side}, {side}, 3), not {images.dtype} {tuple(images.shape)}"
            )

    def normalised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `normalise`, to the bit, with NumPy."""
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        planes = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        planes *= 1 / (255 * std)
        planes -= mean / std
        return planes

    def normalise(self, images: "Tensor") -> "Tensor":
        """Uint8 images (N, H, W, 3) to the model's input, float32 (N, 3, H, W), on the same device.

        What is floating point is taken to be that already, and given back.
        """
        import torch

        if images.is_floating_point():
            return images

        mean, std = (torch.tensor(values, device=images.device).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        planes = images.permute(0, 3, 1, 2)
        tensor = planes.to(torch.float32, memory_format=torch.contiguous_format)
        return tensor.mul_(1 / (255 * std)).sub_(mean / std)


def opened(content: bytes, max_megapixels: float) -> Image.Image:
    """A file's content as an image of which only the header has been read, not the pixels.

    Pillow's draft mode would decode large JPEGs faster, at a fraction of their size: other pixels than timm's, which
    decodes them whole.

    Raises:
        UndecodableError: it is of none of FORMATS, damaged, or larger than `max_megapixels`.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except MemoryError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit
        raise UndecodableError(f"it has more pixels than max_megapixels: {max_megapixels:g}") from None
    except UnidentifiedImageError:
        raise UndecodableError(
            f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image, or its header is damaged"
        ) from None
    except Exception as error:  # as in Preprocessing.pixels
        raise UndecodableError(_said(error)) from None
    if image.width * image.height > round(max_megapixels * 1e6):
        raise UndecodableError(
            f"it has {image.width} × {image.height} pixels, more than max_megapixels: {max_megapixels:g}"
        )
    return image


def extensions() -> frozenset[str]:
    """Of the names of files in FORMATS: in lower case, with the dot."""
    known = (*FORMATS, "MPO")  # MPO is opened as JPEG, which it begins with
    return frozenset(name for name, format_ in Image.registered_extensions().items() if format_ in known)


def _said(error: Exception) -> str:
    return str(error).split(" <")[0] or type(error).__name__


def _offset(square: int, side: int) -> int:
    """Where an image's side begins on the square's, pixels; below 0 where it is cut. Halves round as timm's do."""
    return (square - side) // 2 if side < square else -round((side - square) / 2)


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """The decoded image in mode L or RGB."""
    if not all(image.size):
        raise UndecodableError("it has no pixels")
    if image.mode in ("I", "F"):
        raise UndecodableError(
            f"its pixels are of mode {image.mode}, whose range is not known: save it with 8 bits, or as 16-bit PNG"
        )
    if image.mode.startswith("I;16"):  # Pillow would clip it at 255
        values = np.asarray(image).astype(np.uint32)  # in place from here: a large image's values take room
        values += 128
        values //= 257
        return Image.fromarray(values.astype(np.uint8))
    image.load()
    return image if image.mode in ("L", "RGB") else image.convert("RGB")
