"""How many products a model's linear layers take: multiplications whose results are added up."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitquant.artifact import Artifact
from vitquant.models.loading import empty_model

OPERATORS = ("mm", "addmm", "linear", "convolution")  # attention's are bmm, or one fused operator


def linear_products(artifact: Artifact) -> int:
    """Products that the linear layers of an artifact's model take per image, whatever type the recipe computes in.

    The patch embedding, a convolution, is one of them; attention's own products do not count. The model is run without
    memory, so no weights are read.

    Raises:
        VitquantError: timm has no such ViT.
    """
    side = artifact.spec.preprocessing.crop
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        empty_model(artifact).to("meta")(torch.empty(1, 3, side, side, device="meta"))
    counts: dict[Any, int] = counter.get_flop_counts()["Global"]
    return sum(counts.get(getattr(torch.ops.aten, name), 0) for name in OPERATORS) // 2  # one product is two operations
