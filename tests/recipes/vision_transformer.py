"""ViTs of two blocks, a third of test_vit: what takes a compiler long takes as little as it can.

timm knows them wherever this module is imported, as ViTs, by the module's name.
"""

from typing import Any

import timm
from timm.models import register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, RmsNorm
from torch import nn

BLOCKS = 2


@register_model
def vit_of_two_blocks(pretrained: bool = False, **options: object) -> nn.Module:
    """test_vit, but for its depth."""
    return timm.models.vision_transformer.test_vit(pretrained, depth=BLOCKS, **options)


@register_model
def vit_of_parallel_things(pretrained: bool = False, **options: object) -> nn.Module:
    """Two attentions beside each other, then two MLPs: as vit_small_patch16_18x2_224."""
    return vit_of_two_blocks(pretrained, block_fn=ParallelThingsBlock, **options)


@register_model
def vit_of_attention_beside_mlp(pretrained: bool = False, **options: object) -> nn.Module:
    """Attention and MLP beside each other, from one layer without a bias: as vit_base_patch16_xp_224."""
    own = {"block_fn": ParallelScalingBlock, "norm_layer": RmsNorm, "qkv_bias": False, "qk_norm": True}
    return vit_of_two_blocks(pretrained, **own, **options)


@register_model
def vit_with_registers(pretrained: bool = False, **options: object) -> nn.Module:
    """Of two blocks, with four registers, LayerScale, and a hidden layer of 192 = 1.5 × 128."""
    own = {"embed_dim": 128, "num_heads": 2, "mlp_ratio": 1.5, "reg_tokens": 4, "init_values": 1.0}
    return vit_of_two_blocks(pretrained, **own, **options)


@register_model
def vit_of_two_tokens(pretrained: bool = False, **options: Any) -> nn.Module:
    """Distilled: a class token and a distillation token, and a classifier for each."""
    own = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2}
    kept = {key: value for key, value in options.items() if key in ("img_size", "num_classes")}
    return VisionTransformerDistilled(**own, **kept)


@register_model
def vit_of_the_mean(pretrained: bool = False, **options: object) -> nn.Module:
    """Its classifier reads the mean patch token, normed before that."""
    return vit_of_two_blocks(pretrained, global_pool="avg", fc_norm=False, **options)


@register_model
def vit_of_the_normed_mean(pretrained: bool = False, **options: object) -> nn.Module:
    """Likewise, normed after that: no linear layer over the last norm's tokens."""
    return vit_of_two_blocks(pretrained, global_pool="avg", **options)


@register_model
def vit_of_attention(pretrained: bool = False, **options: object) -> nn.Module:
    """Its classifier reads what an attention of its own makes of all patch tokens."""
    return vit_of_two_blocks(pretrained, global_pool="map", **options)
