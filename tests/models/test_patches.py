import pytest
import torch
from torch import nn

from vitquant.models.patches import PatchProduct


@pytest.mark.parametrize("side", [14, 16])
def test_the_product_equals_the_convolution(side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 3 * side, 4 * side, generator=generator)
    convolution = nn.Conv2d(3, 32, side, stride=side)
    expected = convolution(images)
    found = PatchProduct(convolution)(images)
    assert found.shape == expected.shape == (2, 32, 3, 4)
    assert torch.allclose(found, expected, atol=1e-5)
