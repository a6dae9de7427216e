"""What is folded into the weights leaves a block's function as it was, and tokens start with what timm adds."""

import copy
from typing import Any

import pytest
import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.beit import Beit
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from vitquant.quantization.folding import fold_scales, positions

WIDTH = 64
SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_block_without_its_scales(normed: bool, factor: float) -> None:
    torch.manual_seed(0)
    block: Any = Block(WIDTH, 2, qkv_bias=True, qk_norm=normed, init_values=0.3).double().requires_grad_(False)
    for parameter in block.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    block.attn.fused_attn = False  # PyTorch's own has the scale within
    folded = copy.deepcopy(block)
    fold_scales(folded, factor)
    folded.attn.scale, folded.ls1, folded.ls2 = 1 / factor, nn.Identity(), nn.Identity()
    tokens = torch.randn(2, 5, WIDTH).double()
    torch.testing.assert_close(folded(tokens), block(tokens))


@pytest.mark.parametrize(
    "backbone",
    [
        VisionTransformer(**SMALL, reg_tokens=2),
        VisionTransformer(**SMALL, dynamic_img_size=True, no_embed_class=True),
        Beit(**SMALL, use_abs_pos_emb=True),
    ],
    ids=["registers", "any size", "BEiT"],
)
def test_tokens_before_the_blocks(backbone: Any) -> None:
    """Those of an image whose patches are all zeros, of which the embedding leaves its bias."""
    torch.manual_seed(0)
    backbone.requires_grad_(False).eval()
    for parameter in backbone.parameters():
        parameter.add_(torch.randn_like(parameter))
    assert isinstance(backbone.patch_embed, PatchEmbed)
    seen = []
    backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(torch.zeros(1, 3, 32, 32))
    tokens, rotations = positions(backbone, backbone.patch_embed.proj.bias)
    assert rotations is None
    torch.testing.assert_close(tokens, seen[0])
