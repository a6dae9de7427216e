"""The blocks of timm's ViT families in one form, which smoothing, GPTQ and vitquant-int8's native code read.

Every block has norm1, attn.qkv, attn.proj, norm2, mlp.fc1 and mlp.fc2, the last with biases. What families have beside
that is where timm has it: LayerNorms over queries and keys, before proj or before fc2; rotary embeddings; a gate.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.activations import GELU, GELUTanh, QuickGELU
from timm.layers.attention import Attention, AttentionRope
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vitquant.errors import UnsupportedError

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
NORMS = ("attn.q_norm", "attn.k_norm", "attn.norm", "mlp.norm")  # that may be there


class PlainAttention(nn.Module):
    """Attention with one layer for queries, keys and values, made of one of timm's that can have rotary embeddings.

    Args:
        attention: whose tensors this takes over.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.proj.in_features // attention.num_heads
        self.prefix = getattr(attention, "num_prefix_tokens", 0)
        self.rotate_half: bool = getattr(attention, "rotate_half", False)
        self.scale = self.head_dim**-0.5
        self.qkv = _joined(attention)
        self.q_norm, self.k_norm, self.norm = (
            getattr(attention, name, None) or nn.Identity() for name in ("q_norm", "k_norm", "norm")
        )
        self.proj = attention.proj
        table = getattr(attention, "relative_position_bias_table", None)
        self.relative_position_bias_table = table
        if table is not None:
            self.register_buffer("relative_position_index", attention.relative_position_index, persistent=False)

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        shared_rel_pos_bias: Tensor | None = None,
        **_: bool,
    ) -> Tensor:
        """Tokens (N, tokens, width), alike; `rope` has the patches' sines and cosines, (…, patches, 2 × depth)."""
        images, tokens, _width = x.shape
        parts = self.qkv(x).reshape(images, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = self.q_norm(parts[0]), self.k_norm(parts[1]), parts[2]
        if rope is not None:
            q, k = (
                torch.cat(
                    [y[:, :, : self.prefix], apply_rot_embed_cat(y[:, :, self.prefix :], rope, half=self.rotate_half)],
                    2,
                )
                for y in (q, k)
            )
        if self.relative_position_bias_table is not None:
            index: Tensor = self.relative_position_index  # type: ignore[assignment]
            attn_mask = self.relative_position_bias_table[index.flatten()].reshape(tokens, tokens, -1).permute(2, 0, 1)
            attn_mask = attn_mask if shared_rel_pos_bias is None else attn_mask + shared_rel_pos_bias
        elif shared_rel_pos_bias is not None:
            attn_mask = shared_rel_pos_bias
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=self.scale)
        result: Tensor = self.proj(self.norm(attended.transpose(1, 2).reshape(images, tokens, -1)))
        return result


def _joined(attention: Any) -> nn.Linear:
    """The layer of queries, keys and values, with a bias."""
    if attention.qkv is not None:
        weight, bias = attention.qkv.weight, attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:
            bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
    else:
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
                          for layer in layers])  # fmt: skip
    return _linear(weight, bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias, requires_grad=False)
    return layer


def _packed(mlp: SwiGLU) -> GluMlp:
    """SwiGLU whose gate and value come from one layer."""
    layers = (mlp.fc1_g, mlp.fc1_x)
    with torch.device("meta"):
        packed = GluMlp(1, 2, act_layer=nn.SiLU, gate_last=False)
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    packed.fc1 = _linear(torch.cat([layer.weight for layer in layers]), bias)
    packed.act, packed.norm, packed.fc2 = mlp.act, mlp.norm, mlp.fc2
    return packed


KINDS: dict[str, Any] = {  # the parts of a block that it must have
    "norm1": nn.LayerNorm,
    "attn": (Attention, EvaAttention, AttentionRope, BeitAttention, PlainAttention),
    "norm2": nn.LayerNorm,
    "mlp": (Mlp, GluMlp, SwiGLU),
}


def simplify(model: nn.Module) -> None:
    """Bring a classifier's blocks to that form, in place; the model's function stays what it was.

    Raises:
        UnsupportedError: a block cannot be, e.g. with two attentions in parallel; the message says why.
    """
    for index, block in enumerate(blocks_of(model)):
        oddity = _oddity(block)
        if oddity:
            raise UnsupportedError(f"smoothing does not know block {index} of this model: {oddity}")
        if not isinstance(block.attn, Attention | PlainAttention):
            block.attn = PlainAttention(block.attn)
        if isinstance(block.mlp, SwiGLU):
            block.mlp = _packed(block.mlp)
        for name, part in block.named_modules():
            is_one = (name in LAYERS and isinstance(part, nn.Linear)) or isinstance(part, nn.LayerNorm)
            if is_one and part.bias is None:
                part.bias = nn.Parameter(part.weight.new_zeros(len(part.weight)), requires_grad=False)


def blocks_of(model: nn.Module) -> list[Any]:
    """A classifier's blocks.

    Raises:
        UnsupportedError: it has none, as Swin, whose stages have.
    """
    backbone: Any = model.backbone
    blocks = getattr(backbone, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise UnsupportedError(
            f"smoothing is for ViTs of equal blocks, and this model has none: its type is {type(backbone).__name__}"
        )
    return list(blocks)


def activation(module: Any) -> str | None:
    """The name of an activation function, as `vitquant.runtime.description` has it; None of any other."""
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    known = {GELU: "gelu", GELUTanh: "gelu_tanh", QuickGELU: "quick_gelu", nn.SiLU: "silu"}
    return known.get(type(module))


def layer_scales(block: Any) -> tuple[Tensor | None, Tensor | None]:
    """LayerScale of a block's attention and of its MLP, float32 (width,) each, where there is one."""
    both = [getattr(getattr(block, name, None), "gamma", None) for name in ("ls1", "ls2")]
    first, second = (
        getattr(block, name, None) if own is None else own
        for name, own in zip(("gamma_1", "gamma_2"), both, strict=True)
    )
    return first, second


def _oddity(block: Any) -> str:
    """The first thing for which a block cannot be brought to the form; empty where nothing is."""
    if not isinstance(block, Block | EvaBlock | BeitBlock):
        return f"it is of type {type(block).__name__}"
    parts: dict[str, Any] = dict(block.named_modules())
    for name, kinds in KINDS.items():
        if not isinstance(parts.get(name), kinds):
            return f"{name} is {f'of type {type(parts[name]).__name__}' if name in parts else 'missing'}"
    for name in ("norm1", "norm2", *NORMS):
        if not isinstance(parts.get(name, nn.Identity()), nn.LayerNorm | nn.Identity):
            return f"{name} is of type {type(parts[name]).__name__}"
    attention, mlp = block.attn, block.mlp
    oddities = {
        "a norm has no gain": any(isinstance(part, nn.LayerNorm) and part.weight is None for part in parts.values()),
        "mlp is gated by its last half": isinstance(mlp, GluMlp) and mlp.gate_last,
        f"mlp.act is of type {type(mlp.act).__name__}": activation(mlp.act) is None,
        "attn has a gate": getattr(attention, "gate", None) is not None,
        "attn has fewer heads of keys than of queries": getattr(attention, "num_kv_groups", 1) > 1,
    }
    return next((oddity for oddity, is_so in oddities.items() if is_so), "")
