"""Other heads as one over the class token and the mean patch token, which is what the kernels have."""

import torch
from torch import Tensor, nn

from vitquant.artifact import Spec
from vitquant.errors import UnsupportedError
from vitquant.models.vit import ViTClassifier


def use_token_head(model: ViTClassifier) -> None:
    """Make the head one over the class token and the mean patch token, concatenated, in place.

    What is wanted beside the logits, and the kernels do not give by themselves, it copies: `wanted` then finds that.

    Raises:
        UnsupportedError: it is none of these two tokens alone.
    """
    if model.pooling not in ("tokens", "class", "mean"):
        raise UnsupportedError("its head reads more than the class token and the mean patch token")
    width, head = model.backbone.num_features, model.head
    weight: Tensor = torch.zeros(0, model.feature_width)
    bias: Tensor = torch.zeros(0)
    if isinstance(head, nn.Linear):
        weight, bias = head.weight, head.bias
    if model.pooling == "mean":  # the class token comes in any case, the mean patch token does not
        weight = torch.cat([weight, torch.eye(width, device=weight.device)])
        weight = torch.cat([torch.zeros_like(weight), weight], dim=1)
    elif model.pooling == "class":
        weight = torch.cat([weight, torch.zeros_like(weight)], dim=1)
        if not len(weight):  # the kernels have a class at least
            weight = torch.zeros(1, 2 * width)
    bias = torch.cat([bias, torch.zeros(len(weight) - len(bias), device=bias.device)])
    whole = nn.Linear(weight.shape[1], len(weight), device="meta").requires_grad_(False)
    whole.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    model.head, model.pooling = whole, "tokens"


def wanted(outputs: Tensor, spec: Spec) -> Tensor:
    """Of what the kernels give after `use_token_head`, (N, rows + width), what the artifact gives, as a view."""
    classes = len(spec.classes)
    if spec.pooling == "mean":
        return outputs[:, : (outputs.shape[1] + classes) // 2]
    return outputs if classes else outputs[:, 1:]
