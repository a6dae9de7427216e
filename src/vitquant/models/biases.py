"""Biases that timm keeps beside a layer of queries, keys and values, joined to be that layer's own.

EVA, DINOv3, BEiT and Swin V2 have none for keys, and so multiply by the layer's weight themselves. With a bias of its
own, the layer is called as any other is, and can be quantized as any other.
"""

from typing import Any

import torch
from torch import Tensor, nn


def join(backbone: nn.Module) -> None:
    """Join them, in place; the function stays what it was."""
    part: Any
    for part in backbone.modules():
        if getattr(part, "q_bias", None) is not None and isinstance(getattr(part, "qkv", None), nn.Linear):
            part.qkv.bias = nn.Parameter(_joined(part.q_bias, part.v_bias).detach())
            part.q_bias = part.k_bias = part.v_bias = None


def join_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's tensors by timm's names, as one whose biases have been joined has them."""
    joined = dict(weights)
    for name in weights:
        path, _, own = name.rpartition(".")
        if own == "q_bias" and f"{path}.v_bias" in joined and f"{path}.qkv.weight" in joined:
            joined[f"{path}.qkv.bias"] = _joined(joined.pop(name), joined.pop(f"{path}.v_bias"))
    return joined


def _joined(query: Tensor, value: Tensor) -> Tensor:
    return torch.cat([query, torch.zeros_like(query), value])
