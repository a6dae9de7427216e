"""What transformers' `save_pretrained` wrote of ViT, DeiT, and DINOv2 with registers or without, by timm's names."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

EMBEDDING = "embeddings.patch_embeddings.projection.weight"  # which timm's have not, and all of these have
OWN = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.")  # what a model with a classifier calls its backbone
NAMES = tuple(  # in turn; the second of two alternatives is of transformers 5, in memory
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^layernorm\.", "norm."),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^(?:cls_)?classifier\.", "head."),
        (r"^distillation_classifier\.", "head_dist."),
        (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.(?:attention\.query|q_proj)\.", ".attn.qkv.0."),
        (r"\.attention\.(?:attention\.key|k_proj)\.", ".attn.qkv.1."),
        (r"\.attention\.(?:attention\.value|v_proj)\.", ".attn.qkv.2."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.(?:intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
        (r"\.(?:output\.dense|mlp\.weights_out)\.", ".mlp.fc2."),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    )
)
PART = re.compile(r"^(blocks\.\d+\.attn\.qkv)\.([012])\.(weight|bias)$")


def are_theirs(names: Iterable[str]) -> bool:
    """Whether names are of an image model of transformers', one of these or another."""
    return any("embeddings.patch_embedding" in name for name in names)


def under_timms_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model of transformers', its classifier as `head`; those of any other model as they are.

    Queries, keys and values become one; with registers the class token takes its position in, as timm has it. The
    pooler, which no classifier of theirs reads, and pretraining's mask token are left out.
    """
    embedding = next((name for name in tensors if name.endswith(EMBEDDING)), None)
    if embedding is None:
        return tensors
    inner = embedding.removesuffix(EMBEDDING)
    outer = next((inner.removesuffix(own) for own in OWN if inner.endswith(own)), inner)
    found: dict[str, Tensor] = {}
    attention: dict[tuple[str, str], list[Tensor]] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(inner) if name.startswith(inner) else name.removeprefix(outer)
        if short.startswith(("pooler.", "embeddings.mask_token")):
            continue
        for pattern, replacement in NAMES:
            short = pattern.sub(replacement, short)
        found[short] = tensor
    for name in sorted(found):  # of a layer 0, 1 and 2
        if part := PART.match(name):
            attention.setdefault((part[1], part[3]), []).append(found.pop(name))
    found |= {f"{layer}.{kind}": torch.cat(three) for (layer, kind), three in attention.items()}
    if "reg_token" in found and {"cls_token", "pos_embed"} <= found.keys():
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found
