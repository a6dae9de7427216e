"""What a ViT's weights take over from what surrounds them, and what its tokens start with."""

from typing import Any

import torch
from torch import Tensor, nn

from vitquant.quantization import families


def fold_scales(block: Any, factor: float = 1.0) -> None:
    """Fold attention's 1/√depth into the queries, or their norm, and LayerScale into proj and fc2, in place.

    Args:
        block: in the form of `families`.
        factor: that queries are multiplied by as well: log₂(e) for a softmax in base 2.
    """
    attention = block.attn
    depth, queries = attention.head_dim, slice(None, attention.qkv.out_features // 3)
    if isinstance(attention.q_norm, nn.LayerNorm):
        layer, queries = attention.q_norm, slice(None)
    else:
        layer = attention.qkv
    for parameter in (layer.weight, layer.bias):
        parameter[queries] *= factor * depth**-0.5
    for layer, gamma in zip((attention.proj, block.mlp.fc2), families.layer_scales(block), strict=True):
        if gamma is not None:
            layer.weight *= gamma[:, None]
            layer.bias *= gamma


def positions(backbone: Any, patch: Tensor) -> tuple[Tensor, Tensor | None]:
    """What tokens start with, float32 (1, tokens, width): positions, and of the first ones the tokens themselves.

    Args:
        patch: what every patch's token has besides, float32 (width,).

    Returns:
        Beside that, the patches' rotations as timm has them, if there are.
    """
    patches = patch.repeat(1, *backbone.patch_embed.grid_size, 1)
    if not getattr(backbone, "dynamic_img_size", False):
        patches = patches.flatten(1, 2)
    if not hasattr(backbone, "_pos_embed"):  # BEiT
        tokens = torch.cat([backbone.cls_token, patches], dim=1)
        return (tokens if backbone.pos_embed is None else tokens + backbone.pos_embed), None
    found = backbone._pos_embed(patches)
    return found if isinstance(found, tuple) else (found, None)
