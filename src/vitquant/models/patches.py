"""The patch embedding's convolution as a copy and a matrix product, which compute the same."""

import torch.nn.functional as F
from torch import Tensor, nn

STEP = 64  # the product's depth is padded to a multiple of it, as tensor cores like it


class PatchProduct(nn.Module):
    """Takes the place of a convolution whose steps are as long as its kernel.

    Args:
        convolution: whose weights this has.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight = convolution.weight.flatten(1)
        self.side = convolution.kernel_size[0]
        self.padding = -weight.shape[1] % STEP
        self.weight = nn.Parameter(F.pad(weight, (0, self.padding)), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to embedded patches (N, width, rows, columns)."""
        count, channels, height, width = images.shape
        rows, columns = height // self.side, width // self.side
        cut = images.reshape(count, channels, rows, self.side, columns, self.side).permute(0, 2, 4, 1, 3, 5)
        return F.linear(F.pad(cut.flatten(3), (0, self.padding)), self.weight, self.bias).permute(0, 3, 1, 2)
