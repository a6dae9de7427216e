"""A classifier's tensors as vitquant-int8's artifact holds them: linear layers as integers, and all else folded."""

from typing import Any

import torch
from torch import Tensor, nn

from vitquant.quantization import rounding
from vitquant.quantization.families import LAYERS
from vitquant.quantization.folding import fold_scales, positions
from vitquant.runtime.description import Description


def block_tensors(
    path: str, block: Any, centre: Tensor, inverse: Tensor, moments: dict[str, Tensor], most: int | None
) -> dict[str, Tensor]:
    """A block's tensors, its linear layers as integers; attention's scale and LayerScale are folded, in place.

    Rows of queries and keys that turn with each other come in two halves, the first of all pairs before the second.

    Args:
        path: of the block, before the tensors' names.
        centre: of fc2's inputs, float32 (hidden,).
        inverse: of the scale of fc2's inputs, likewise.
        moments: of each linear layer's inputs, by path and name; they are taken out.
        most: as `Library.largest_weight_sum`.
    """
    fold_scales(block)
    tensors = {f"{path}.mlp.centre": centre, f"{path}.mlp.inverse": inverse}
    norms = {name: part for name, part in block.named_modules() if isinstance(part, nn.LayerNorm)}
    for name, norm in norms.items():
        tensors |= {f"{path}.{name}.weight": norm.weight, f"{path}.{name}.bias": norm.bias}
    for layer in LAYERS:
        name = f"{path}.{layer}"
        tensors |= _quantize(name, block.get_submodule(layer), moments.pop(name), most)
    _order_pairs(path, block.attn, tensors)
    table = getattr(block.attn, "relative_position_bias_table", None)
    return tensors if table is None else tensors | {f"{path}.attn.bias": table}


def _quantize(name: str, layer: Any, moment: Tensor, most: int | None) -> dict[str, Tensor]:
    if most:
        integers, scale = rounding.gptq_within(layer.weight, moment, most)
    else:
        scale = rounding.scales(layer.weight)
        integers = rounding.gptq(layer.weight, scale, moment)
    return {f"{name}.weight": integers, f"{name}.scale": scale, f"{name}.bias": layer.bias}


def _order_pairs(path: str, attention: Any, tensors: dict[str, Tensor]) -> None:
    """Bring apart the neighbours that turn with each other, in queries' and keys' rows: dot products do not change."""
    if getattr(attention, "rotate_half", True):
        return  # they are, or nothing turns
    depth = attention.head_dim
    order = torch.arange(depth).reshape(-1, 2).T.flatten()
    for part in ("weight", "scale", "bias"):
        rows = tensors[f"{path}.attn.qkv.{part}"]
        by_head = rows.unflatten(0, (3, -1, depth)).clone()
        by_head[:2] = by_head[:2, :, order]
        tensors[f"{path}.attn.qkv.{part}"] = by_head.flatten(0, 2)
    for name in (f"{path}.attn.{norm}.{part}" for norm in ("q_norm", "k_norm") for part in ("weight", "bias")):
        if name in tensors:
            tensors[name] = tensors[name][order]


def other_tensors(model: Any, description: Description) -> dict[str, Tensor]:
    """All tensors but the blocks': `backbone.tokens`, (1, tokens, width), is what tokens are beside their pixels.

    `backbone.distances`, int32 (tokens, tokens), has rows of the blocks' tables of biases.
    `backbone.rotation`, (tables, patches, 2, depth / 2), has the sines and the cosines of what each pair turns by.
    """
    backbone = model.backbone
    conv = backbone.patch_embed.proj
    tokens, rope = positions(backbone, torch.zeros(backbone.embed_dim) if conv.bias is None else conv.bias)
    tensors = {"backbone.patch_embed.proj.weight": conv.weight, "backbone.tokens": tokens}
    if rope is not None:
        half = backbone.blocks[0].attn.rotate_half
        parts = torch.stack(rope.float().chunk(2, -1), dim=-2).reshape(-1, description.patches, 2, description.depth)
        tensors["backbone.rotation"] = parts[..., : description.depth // 2] if half else parts[..., ::2]
    if description.distances:
        tensors["backbone.distances"] = backbone.blocks[0].attn.relative_position_index.int()
    kept = {"norm_pre": description.norm_before, "norm": description.norm_after, "fc_norm": description.norm_pooled}
    modules = {f"backbone.{name}": getattr(backbone, name) for name, is_there in kept.items() if is_there}
    if description.pooling == "attention":
        own, pool_modules = _pool(backbone.attn_pool)
        tensors, modules = tensors | own, modules | pool_modules
    if description.classes:
        modules["head"] = model.head
    else:
        tensors |= {"head.weight": torch.zeros(0, description.features), "head.bias": torch.zeros(0)}
    return tensors | {f"{name}.{part}": getattr(module, part) for name, module in modules.items()
                      for part in ("weight", "bias")}  # fmt: skip


def _pool(pool: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Attention pooling's tensors and layers: the one query, which is always the same, times the keys' weights.

    Their bias adds the same to all of a head's logits, so that softmax does not see it.
    """
    heads, width = pool.num_heads, pool.kv.in_features
    query = pool.q_norm(pool.q(pool.latent)[0, 0].reshape(heads, -1)) * pool.head_dim**-0.5
    key, value = pool.kv.weight.reshape(2, heads, pool.head_dim, width)
    bias = torch.zeros(2 * width) if pool.kv.bias is None else pool.kv.bias
    tensors = {
        "pool.query": torch.einsum("hd,hdw->hw", query, key),
        "pool.value.weight": value.reshape(width, width),
        "pool.value.bias": bias[width:],
    }
    modules: dict[str, Any] = {"pool.proj": pool.proj}
    if pool.mlp is not None:
        modules |= {"pool.norm": pool.norm, "pool.fc1": pool.mlp.fc1, "pool.fc2": pool.mlp.fc2}
    return tensors, modules
