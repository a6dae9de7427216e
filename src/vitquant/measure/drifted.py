"""Images as another light, lens or camera would give them, by torchvision's functionals with fixed parameters."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from vitquant.results.drift import CLEAN, Kind


def _blur(image: Tensor, sigma: float) -> Tensor:
    size = 2 * round(3 * sigma) + 1
    blurred: Tensor = functional.gaussian_blur(image, [size, size], [sigma, sigma])
    return blurred


def _cast(image: Tensor, change: float) -> Tensor:
    """Red times 1 + change, blue times 1 - change."""
    gains = zip(image.split(1), (1 + change, 1, 1 - change), strict=True)
    return torch.cat([functional.adjust_brightness(channel, gain) for channel, gain in gains])


def _coarser(image: Tensor, factor: float) -> Tensor:
    """What a sensor with so many times fewer pixels each way gives, enlarged again."""
    size = list(image.shape[-2:])
    few = [max(1, round(side / factor)) for side in size]
    small = functional.resize(image, few, InterpolationMode.BILINEAR, antialias=True)
    large: Tensor = functional.resize(small, size, InterpolationMode.BICUBIC, antialias=True)
    return large


APPLIED: dict[Kind, Callable[[Tensor, float], Tensor]] = {  # uint8 (3, H, W), and how strong: to uint8 (3, H, W)
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "blur": _blur,
    "noise": lambda image, sigma: functional.gaussian_noise(image, sigma=sigma),
    "jpeg": lambda image, quality: functional.jpeg(image, int(quality)),
    "colour": _cast,
    "resolution": _coarser,
}


def drifted(images: NDArray[np.uint8], kind: Kind, strength: float, seed: int) -> NDArray[np.uint8]:
    """Images, uint8 (N, H, W, 3), with the drift; as they are where it is none.

    Args:
        strength: the factor of brightness or contrast, the blur's standard deviation in pixels, the noise's as a share
            of 255, JPEG's quality, the change of red and blue, or how many times fewer pixels each way.
        seed: of the noise.
    """
    if kind == CLEAN:
        return images
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = [
            APPLIED[kind](torch.from_numpy(np.array(image)).permute(2, 0, 1), strength).permute(1, 2, 0)
            for image in images
        ]
    return torch.stack(found).numpy()
