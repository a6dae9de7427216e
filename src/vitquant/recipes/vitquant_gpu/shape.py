"""What the kernels must know of a ViT, and which ViTs they take."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from vitquant.errors import UnsupportedError
from vitquant.models.vit import ViTClassifier
from vitquant.quantization.smoothing import check_blocks

GROUP = 128
"""Columns of the hidden layer that share a scale where scales are found at run time; the last may be fewer."""
HEADS = (32, 64, 128)
"""Sizes of a head that attention's kernel takes."""
STEP = 64
"""Widths are multiples of it."""


@dataclass(frozen=True)
class Shape:
    """Of one model."""

    tokens: int
    """Of an image, the class token and registers among them."""
    prefix: int
    """Class token and registers."""
    width: int
    hidden: int
    """Of the MLP."""
    head: int
    """A head's size."""
    side: int
    """Of a patch, pixels."""
    blocks: int
    classes: int
    epsilons: tuple[tuple[float, float], ...]
    """Of the two LayerNorms of each block."""
    last_epsilon: float

    @property
    def patches(self) -> int:
        """Of an image."""
        return self.tokens - self.prefix


def shape_of(model: ViTClassifier) -> Shape:
    """That of a model, which may be without memory.

    Raises:
        UnsupportedError: the kernels do not take it; the message says what is in the way.
    """
    check_blocks(model)
    backbone: Any = model.backbone
    block, embedding = backbone.blocks[0], backbone.patch_embed
    shape = Shape(
        tokens=embedding.num_patches + backbone.num_prefix_tokens,
        prefix=backbone.num_prefix_tokens,
        width=backbone.embed_dim,
        hidden=block.mlp.fc1.out_features,
        head=block.attn.head_dim,
        side=embedding.patch_size[0],
        blocks=len(backbone.blocks),
        classes=model.head.out_features,
        epsilons=tuple((block.norm1.eps, block.norm2.eps) for block in backbone.blocks),
        last_epsilon=backbone.norm.eps if isinstance(backbone.norm, nn.LayerNorm) else 0.0,
    )
    oddities = {
        f"heads of {shape.head}, not {HEADS}": shape.head not in HEADS,
        f"a width of {shape.width}, no multiple of {STEP}": shape.width % STEP,
        f"a hidden layer of {shape.hidden}, no multiple of {STEP}": shape.hidden % STEP,
        "images that do not divide into patches": embedding.img_size[0] % shape.side,
        "a norm after the patch embedding": not isinstance(embedding.norm, nn.Identity),
        "a norm before the blocks": not isinstance(backbone.norm_pre, nn.Identity),
        "no LayerNorm after the blocks": not isinstance(backbone.norm, nn.LayerNorm),
        "another pooling than the class token beside the patches' mean": model.pooling != "tokens",
    }
    for oddity, found in oddities.items():
        if found:
            raise UnsupportedError(f"vitquant-gpu's kernels are for plain ViTs, and this model has {oddity}")
    return shape
