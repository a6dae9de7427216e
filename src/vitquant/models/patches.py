"""The patch embedding as a copy and a matrix product: the same function as its convolution."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

STEP = 64  # the product's depth is padded to a multiple of it, as tensor cores like it


class PatchProduct(nn.Module):
    """Takes the place of timm's PatchEmbed.

    Args:
        embedding: the PatchEmbed, whose weights this has.
    """

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        weight = embedding.proj.weight.flatten(1)
        self.side, self.flat, self.norm = embedding.patch_size[0], embedding.flatten, embedding.norm
        self.padding = -weight.shape[1] % STEP
        self.weight = nn.Parameter(F.pad(weight, (0, self.padding)), requires_grad=False)
        self.bias = embedding.proj.bias

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to tokens (N, patches, width), or where timm's are, (N, rows, columns, width)."""
        count, channels, height, width = images.shape
        rows, columns = height // self.side, width // self.side
        cut = images.reshape(count, channels, rows, self.side, columns, self.side).permute(0, 2, 4, 1, 3, 5)
        tokens = F.linear(F.pad(cut.flatten(3), (0, self.padding)), self.weight, self.bias)
        return self.norm(tokens.flatten(1, 2) if self.flat else tokens)
