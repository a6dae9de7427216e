"""What becomes of a timm backbone's tokens before a head: the tokens themselves, or what its own pooling gives."""

from typing import Any, Literal

import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitquant.artifact import Pooling
from vitquant.errors import VitquantError

WITH_TOKENS = (VisionTransformer, Eva, Beit)
"""What gives tokens in a row, those of its prefix first."""


def reads_class_token(backbone: Any) -> bool:
    """Whether a new head reads the class token and the patches' mean, after the backbone's last norm.

    That needs a class token and such a norm. A model that pools by attention, that normalises what it has pooled, or
    that has no class token is read through its own pooling.
    """
    return (
        isinstance(backbone, WITH_TOKENS)
        and backbone.cls_token is not None
        and not isinstance(backbone.norm, nn.Identity)
        and getattr(backbone, "attn_pool", None) is None
    )


def of_probe(backbone: Any) -> Pooling:
    """What a head reads that is fitted here."""
    return "tokens" if reads_class_token(backbone) else "own"


def of_classifier(backbone: Any) -> Pooling:
    """What the backbone's own classifier reads, by a plainer name where there is one."""
    if isinstance(backbone, VisionTransformerDistilled):
        return "two"
    plain = (
        isinstance(backbone, WITH_TOKENS)
        and getattr(backbone, "attn_pool", None) is None
        and isinstance(backbone.fc_norm, nn.Identity)
    )
    if plain and backbone.global_pool == "token" and backbone.cls_token is not None:
        return "class"
    if plain and backbone.global_pool == "avg" and not getattr(backbone, "pool_include_prefix", False):
        return "mean"
    return "own"


def of_embedding(backbone: Any) -> Pooling:
    """What the backbone gives without its classifier: of two tokens that is their mean."""
    pooling = of_classifier(backbone)
    return "own" if pooling == "two" else pooling


def of_study(backbone: Any, wanted: Literal["class", "mean", "own"], name: str) -> Pooling:
    """What `embedding.pooling` makes of the backbone, timm's `name`.

    Raises:
        VitquantError: the backbone has no such tokens.
    """
    if wanted == "own":
        return of_embedding(backbone)
    if not isinstance(backbone, WITH_TOKENS):
        raise VitquantError(f"embedding.pooling: {name} gives no row of tokens: take own")
    if wanted == "class" and backbone.cls_token is None:
        raise VitquantError(f"embedding.pooling: {name} has no class token: take mean or own")
    return wanted


def pooled_width(backbone: Any) -> int:
    """Width D of what is given beside the logits."""
    return int(getattr(backbone, "head_hidden_size", backbone.num_features))


def feature_width(backbone: Any, pooling: Pooling) -> int:
    """Width F of features: D, or 2 × D where they are of two tokens."""
    return pooled_width(backbone) * (2 if pooling in ("tokens", "two") else 1)


def features(backbone: Any, images: Tensor, pooling: Pooling) -> Tensor:
    """Normalised images (N, 3, H, W) to features (N, F), of the same type.

    The first D of them are what is given beside the logits.
    """
    tokens: Tensor = backbone.forward_features(images)
    if pooling == "own":
        pooled: Tensor = backbone.forward_head(tokens, pre_logits=True)
        return pooled
    if pooling == "class":
        return tokens[:, 0]
    if pooling == "two":
        return tokens[:, :2].flatten(1)
    mean: Tensor = tokens[:, backbone.num_prefix_tokens :].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)
