"""Smoothing: moving the spread of activations over channels into the weights, where per-channel scales absorb it.

A linear layer's input channel j is replaced by (x_j - centre_j) / scale_j, and its weights and bias take the inverse:
the same function of x. Scales are those of SmoothQuant (Xiao et al. 2023, arXiv:2211.10438, equation 4), centres the
middle of each channel's range (as in Outlier Suppression+, Wei et al. 2023, arXiv:2304.09145). What replaces x folds
into the layer before, exactly and at no cost at run time: into LayerNorm's gain and shift (qkv, fc1, and proj and fc2
where a LayerNorm comes before them), or into the value rows of qkv (proj), since attention's weights sum to one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vitquant.errors import UnsupportedError
from vitquant.quantization import families
from vitquant.quantization.families import LAYERS
from vitquant.quantization.observe import Inputs, observe

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
PLAIN = {  # the parts of a block, and what they are; timm has Identity, or nothing, where there is no norm
    "norm1": nn.LayerNorm,
    "attn": Attention,
    "attn.qkv": nn.Linear,
    "attn.q_norm": nn.Identity,
    "attn.k_norm": nn.Identity,
    "attn.norm": nn.Identity,
    "attn.proj": nn.Linear,
    "norm2": nn.LayerNorm,
    "mlp.fc1": nn.Linear,
    "mlp.act": nn.GELU,
    "mlp.norm": nn.Identity,
    "mlp.fc2": nn.Linear,
}
BATCH = 8  # calibration images at once
GPTQ_NOISE = 0.03  # of GPTQ's weights relative to nearest rounding's: variance in the sample study's logits, measured
SMALLEST = 1e-5  # of a channel's range, so that a dead channel has a scale


@dataclass(frozen=True)
class Smoothing:
    """One linear layer's smoothing, K input channels."""

    centre: Tensor
    """float32 (K,)."""
    scale: Tensor
    """float32 (K,)."""
    strength: float
    """0 leaves the spread where it is, 1 moves all of it into the weights."""
    largest: float
    """The largest magnitude of a smoothed input on the calibration images."""

    def inputs(self, seen: Inputs) -> Tensor:
        """The second moment of the smoothed inputs, sum of z zᵀ with z = (x - centre) / scale, float64 (K, K)."""
        scale = self.scale.double()
        return seen.moment(self.centre) / torch.outer(scale, scale)


def smooth(model: nn.Module, images: Tensor, *, per_token: bool) -> tuple[dict[str, Smoothing], dict[str, Tensor]]:
    """Smooth all linear layers of all blocks, in place, by what they see on `images`, float32 (N, 3, H, W).

    The blocks are brought to the form of `families`. All layers but fc2 are folded: fc2 takes smoothed inputs
    afterwards, which the caller must give as `left_to_activation` says.

    Args:
        per_token: activations will have a scale per token, or one per image.

    Returns:
        By the layer's name, its smoothing, and the second moment of its smoothed inputs, float64 (K, K), for GPTQ.

    Raises:
        UnsupportedError: the blocks are not of that form.
    """
    families.simplify(model)
    backbone: Any = model.backbone
    names = [f"backbone.blocks.{index}.{layer}" for index in range(len(backbone.blocks)) for layer in LAYERS]
    seen = observe(model, images.split(BATCH), names, Inputs)
    chosen = {name: choose(seen[name], model.get_submodule(name), per_token=per_token) for name in names}
    for name in names:
        if name.endswith("fc2") and not _norm_before(model, name):
            rewrite_inputs(model.get_submodule(name), chosen[name])
        else:
            fold(model, {name: chosen[name]})
    return chosen, {name: chosen[name].inputs(seen.pop(name)) for name in names}


def choose(seen: Inputs, layer: Any, *, per_token: bool) -> Smoothing:
    """The smoothing whose strength promises the least noise in the layer's output, after quantizing to 8 bits.

    Rounding to a step adds an error of variance step² / 12 (Widrow & Kollár 2008), so that, up to a constant, the
    output's noise is E[max z²] · Σ s_j² ‖w_j‖² from activations, with the maximum over a token or an image, and
    GPTQ_NOISE · Σ_n max_j (w_nj s_j)² · E[‖z‖²] from weights.

    Args:
        layer: the linear layer.
        per_token: activations have a scale per token, or one per image.
    """
    weight: Tensor = layer.weight
    centre = (seen.lowest + seen.highest) / 2
    activation = torch.maximum(seen.highest - centre, centre - seen.lowest).clamp(min=SMALLEST)
    largest = weight.abs().amax(dim=0).clamp(min=SMALLEST)

    def noise(strength: float) -> tuple[float, float, Tensor]:
        scale = activation**strength / largest ** (1 - strength)
        scale = scale / scale.log().mean().exp()
        z = (seen.sample - centre) / scale
        scaled = weight * scale
        peak = z.abs().amax(dim=2) if per_token else z.abs().amax(dim=(1, 2))
        activations = peak.square().mean() * scaled.square().sum()
        weights = scaled.abs().amax(dim=1).square().sum() * z.square().sum(dim=2).mean()
        return float(activations + GPTQ_NOISE * weights), strength, scale

    _, strength, scale = min((noise(strength) for strength in STRENGTHS), key=lambda candidate: candidate[0])
    return Smoothing(centre, scale, strength, float((activation / scale).max()))


def left_to_activation(block: Any, fc2: Smoothing) -> tuple[Tensor, Tensor]:
    """What must be subtracted from the activation function's results, and what they are multiplied by then.

    Args:
        block: smoothed.
        fc2: the smoothing of its fc2.

    Returns:
        Float32 (K,) each: nothing and one, where a LayerNorm before fc2 has taken that over.
    """
    if isinstance(getattr(block.mlp, "norm", None), nn.LayerNorm):
        return torch.zeros_like(fc2.centre), torch.ones_like(fc2.scale)
    return fc2.centre, 1 / fc2.scale


def fold(model: nn.Module, smoothings: dict[str, Smoothing]) -> None:
    """Smooth the linear layers that `smoothings` names, in place; the model's function stays what it was.

    The names end in `attn.qkv`, `attn.proj` or `mlp.fc1`: fc2 has no layer before it that could be, but for a norm.
    """
    for name, smoothing in smoothings.items():
        path, _, kind = name.rpartition(".")
        block = model.get_submodule(path.rpartition(".")[0])
        before: Any = _norm_before(model, name) or block.get_submodule({"proj": "attn.qkv"}[kind])
        _rewrite_outputs(before, smoothing)
        rewrite_inputs(model.get_submodule(name), smoothing)


def _norm_before(model: nn.Module, name: str) -> nn.Module | None:
    """The LayerNorm that a linear layer's inputs come from, if they do."""
    path, _, kind = name.rpartition(".")
    block = model.get_submodule(path.rpartition(".")[0])
    norm = {"qkv": "norm1", "proj": "attn.norm", "fc1": "norm2", "fc2": "mlp.norm"}[kind]
    found = dict(block.named_modules()).get(norm)
    return found if isinstance(found, nn.LayerNorm) else None


def rewrite_inputs(layer: Any, smoothing: Smoothing) -> None:
    """Make a linear layer take smoothed inputs, in place."""
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(layer.out_features)
    layer.bias = nn.Parameter(bias + layer.weight @ smoothing.centre, requires_grad=False)
    layer.weight = nn.Parameter(layer.weight * smoothing.scale, requires_grad=False)


def _rewrite_outputs(layer: Any, smoothing: Smoothing) -> None:
    """Make a LayerNorm, or the value rows of a qkv layer, give smoothed outputs, in place."""
    rows = slice(-len(smoothing.scale), None)
    weight, bias = layer.weight.clone(), layer.bias.clone()
    scale = smoothing.scale if weight.ndim == 1 else smoothing.scale[:, None]
    weight[rows] /= scale
    bias[rows] = (bias[rows] - smoothing.centre) / smoothing.scale
    layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)


def check_blocks(model: nn.Module) -> None:
    """See that every block is timm's plain one: LayerNorm, qkv, softmax attention, proj, LayerNorm, fc1, GELU, fc2.

    This is for what takes no others; `smooth` does.

    Raises:
        UnsupportedError: a block has something else, e.g. a gated MLP, normalised queries, or two attentions in
            parallel; the message says what.
    """
    for index, block in enumerate(families.blocks_of(model)):
        oddity = _oddity(block)
        if oddity:
            raise UnsupportedError(
                f"this recipe needs timm's blocks of LayerNorm, attention, LayerNorm and an MLP with GELU, and block "
                f"{index} of this model, a {type(block).__name__}, is another: {oddity}"
            )


def _oddity(block: Any) -> str:
    """The first thing in which a block differs from the plain one; empty where nothing does."""
    if not isinstance(block, Block):
        return f"it is of type {type(block).__name__}"
    parts: dict[str, Any] = dict(block.named_modules())
    for name, kind in PLAIN.items():
        part = parts.get(name)
        if not isinstance(part, kind) and not (part is None and kind is nn.Identity):
            return f"{name} is {'missing' if part is None else f'of type {type(part).__name__}'}"
    if parts["attn.qkv"].bias is None:
        return "attn.qkv has no bias"
    if parts["mlp.act"].approximate != "none":
        return f"mlp.act is GELU's {parts['mlp.act'].approximate} approximation"
    return "attn has a gate" if getattr(parts["attn"], "gate", None) is not None else ""
