"""What the native code has to know of a classifier, or why it cannot run it."""

from typing import Any

from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import GluMlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitquant.artifact import Pooling
from vitquant.errors import UnsupportedError
from vitquant.quantization import families
from vitquant.runtime.description import Description

TYPES = (VisionTransformer, VisionTransformerDistilled, Eva, Beit)
OWN = {"token": "token", "avg": "mean", "map": "attention"}  # timm's names of poolings
POOLINGS: dict[Pooling, dict[str, Any]] = {  # as the runtime has them
    "tokens": {"pooling": "class and mean"},
    "class": {"pooling": "token"},
    "mean": {"pooling": "mean"},
    "two": {"pooling": "class and mean", "skipped": 1, "averaged": 1},
}


def describe(model: Any) -> Description:
    """What the runtime has to know of a classifier, whose blocks are brought to the form of `families`, in place.

    Raises:
        UnsupportedError: it is none that the runtime can run; the message says why.
    """
    backbone = model.backbone
    oddity = "" if type(backbone) in TYPES else f"its type is {type(backbone).__name__}"
    if not oddity:
        families.simplify(model)
        oddity = _oddity(model) or _oddity_of_blocks(backbone)
    if oddity:
        raise UnsupportedError(f"vitquant-int8 does not run this model: {oddity}")
    embedding, block = backbone.patch_embed, backbone.blocks[0]
    attention = block.attn
    norms = {name for name, part in block.named_modules() if isinstance(part, nn.LayerNorm)}
    return Description(
        side=embedding.img_size[0],
        channels=embedding.proj.in_channels,
        patch=embedding.patch_size[0],
        width=backbone.embed_dim,
        blocks=len(backbone.blocks),
        heads=attention.num_heads,
        depth=attention.head_dim,
        hidden=block.mlp.fc2.in_features,
        prefix=backbone.num_prefix_tokens,
        classes=0 if isinstance(model.head, nn.Identity) else model.head.out_features,
        epsilon=block.norm1.eps,
        norm_before=_is_norm(backbone, "norm_pre"),
        norm_after=_is_norm(backbone, "norm"),
        norm_pooled=model.pooling == "own" and _is_norm(backbone, "fc_norm"),
        norm_heads="attn.q_norm" in norms,
        norm_attention="attn.norm" in norms,
        norm_hidden="mlp.norm" in norms,
        rotations=_rotations(backbone),
        distances=0 if (table := _table(block)) is None else len(table),
        activation=str(families.activation(block.mlp.act)),
        gated=isinstance(block.mlp, GluMlp),
        **_pooling(model),
    )


def _table(block: Any) -> Any:
    """Of biases by relative position, (distances, heads), or none."""
    return getattr(block.attn, "relative_position_bias_table", None)


def _is_norm(backbone: Any, name: str) -> bool:
    return isinstance(getattr(backbone, name, None), nn.LayerNorm)


def _rotations(backbone: Any) -> int:
    if getattr(backbone, "rope", None) is None:
        return 0
    return len(backbone.blocks) * backbone.blocks[0].attn.num_heads if backbone.rope_mixed else 1


def _pooling(model: Any) -> dict[str, Any]:
    """Description's fields of what the head reads."""
    if model.pooling != "own":
        return POOLINGS[model.pooling]
    backbone = model.backbone
    if isinstance(backbone, VisionTransformerDistilled):
        return {"pooling": "mean", "skipped": 0, "averaged": 2}
    pool = getattr(backbone, "attn_pool", None)
    all_tokens = (isinstance(backbone, Eva) and pool is not None) or getattr(backbone, "pool_include_prefix", False)
    skipped = 0 if all_tokens else backbone.num_prefix_tokens
    own: dict[str, Any] = {"pooling": OWN[backbone.global_pool], "skipped": skipped}
    if pool is None:
        return own
    own |= {"pool_heads": pool.num_heads}
    if pool.mlp is None:
        return own
    return own | {"pool_hidden": pool.mlp.fc1.out_features, "pool_activation": families.activation(pool.mlp.act)}


def _oddity(model: Any) -> str:
    """The first thing, beside its blocks, for which the native code does not run a model; or empty."""
    backbone = model.backbone
    for name in ("norm_pre", "norm", "fc_norm"):
        if not isinstance(getattr(backbone, name, nn.Identity()), nn.LayerNorm | nn.Identity):
            return f"{name} is of type {type(getattr(backbone, name)).__name__}"
    embedding, pool, kind = backbone.patch_embed, getattr(backbone, "attn_pool", None), backbone.global_pool
    oddities = {
        f"its patch embedding is a {type(embedding).__name__}": type(embedding) is not PatchEmbed,
        "its images do not divide into patches": embedding.img_size[0] % embedding.patch_size[0] != 0,
        "its patch embedding has a norm": not isinstance(getattr(embedding, "norm", None), nn.Identity),
        "its blocks share a bias of relative positions": getattr(backbone, "rel_pos_bias", None) is not None,
        f"its pooling is {kind or 'none'}": model.pooling == "own" and kind not in OWN,
    }
    oddity = next((oddity for oddity, is_so in oddities.items() if is_so), "")
    return oddity if oddity or pool is None else _oddity_of_pool(pool)


def _oddity_of_pool(pool: Any) -> str:
    if type(pool) is not AttentionPoolLatent:
        return f"its pooling is a {type(pool).__name__}"
    if pool.latent_len != 1 or pool.pos_embed is not None or not isinstance(pool.k_norm, nn.Identity):
        return "its attention pooling has several queries, positions, or normalised keys"
    if pool.mlp is not None and families.activation(pool.mlp.act) is None:
        return f"its attention pooling's activation is a {type(pool.mlp.act).__name__}"
    return ""


def _oddity_of_blocks(backbone: Any) -> str:
    """The first thing in which blocks of that form are none that the native code runs, or differ from each other."""
    first = _form(backbone.blocks[0])
    for index, block in enumerate(backbone.blocks):
        if _form(block) != first:
            return f"block {index} is of another form than the first"
    norms = [module for module in backbone.modules() if isinstance(module, nn.LayerNorm)]
    return "its LayerNorms' epsilons differ" if len({norm.eps for norm in norms}) > 1 else ""


def _form(block: Any) -> tuple[Any, ...]:
    norms = tuple(name for name, part in block.named_modules() if isinstance(part, nn.LayerNorm))
    layers = tuple(tuple(block.get_submodule(name).weight.shape) for name in families.LAYERS)
    table = None if _table(block) is None else _table(block).shape
    return norms, layers, table, block.attn.num_heads, families.activation(block.mlp.act), type(block.mlp)
