"""What a head reads of a timm backbone: its class token beside its patches' mean, or what its own pooling gives."""

from typing import Any

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def reads_class_token(backbone: Any) -> bool:
    """Whether the head reads the class token and the patches' mean, after the backbone's last norm.

    That needs a class token and such a norm. A model that pools by attention, that normalises what it has pooled, or
    that has no class token is read through its own pooling.
    """
    return (
        isinstance(backbone, VisionTransformer | Eva | Beit)
        and backbone.cls_token is not None
        and not isinstance(backbone.norm, nn.Identity)
        and getattr(backbone, "attn_pool", None) is None
    )


def pooled_width(backbone: Any) -> int:
    """Width D of what is given beside the logits: the class token, or what the model's own pooling gives."""
    return int(getattr(backbone, "head_hidden_size", backbone.num_features))


def feature_width(backbone: Any) -> int:
    """Width of `features`: D, or 2 × D with a class token."""
    return pooled_width(backbone) * (2 if reads_class_token(backbone) else 1)


def features(backbone: Any, images: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) to what the head reads, of the same type.

    Returns:
        (N, 2 × D), class token and mean patch token; or (N, D), what the model's own pooling gives.
    """
    tokens = backbone.forward_features(images)
    if reads_class_token(backbone):
        return torch.cat([tokens[:, 0], tokens[:, backbone.num_prefix_tokens :].mean(dim=1)], dim=1)
    pooled: Tensor = backbone.forward_head(tokens, pre_logits=True)
    return pooled
