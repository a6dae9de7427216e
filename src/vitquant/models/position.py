"""Position embeddings for another number of patches."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(cls: Tensor, patches: Tensor, grid: int, offset: float = 0.0) -> Tensor:
    """Class-token and patch embeddings as one, the patches resized by bicubic interpolation without antialiasing.

    With an offset, output pixel i samples the input at (i + 0.5) × side / (grid + offset) − 0.5. The official DINOv2
    models do so with an offset of 0.1: `interpolate_pos_encoding` in dinov2/models/vision_transformer.py of
    github.com/facebookresearch/dinov2. On a grid of the same size nothing changes, there as here.

    Args:
        cls: float32 (1, 1, width).
        patches: float32 (1, side², width), row by row.
        grid: patches per side of the result.

    Returns:
        Float32 (1, 1 + grid², width).
    """
    side = round(patches.shape[1] ** 0.5)
    if side != grid:
        square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if offset:
            square = F.interpolate(square, scale_factor=(grid + offset) / side, mode="bicubic", align_corners=False)
        else:
            square = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
        assert square.shape[2:] == (grid, grid)
        patches = square.flatten(2).transpose(1, 2)
    return torch.cat([cls, patches], dim=1)
