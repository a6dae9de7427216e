"""A ViT of two blocks, a third of test_vit: what takes a compiler long takes as little as it can.

timm knows it wherever this module is imported, as a ViT, by the module's name.
"""

import timm
from timm.models import register_model
from torch import nn

BLOCKS = 2


@register_model
def vit_of_two_blocks(pretrained: bool = False, **options: object) -> nn.Module:
    """test_vit, but for its depth."""
    return timm.models.vision_transformer.test_vit(pretrained, depth=BLOCKS, **options)
