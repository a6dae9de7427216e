"""ViTs of many shapes and families, quantized without calibration, and the same network in float64."""

import copy
from typing import Any

import numpy as np
import timm
import torch
from timm.layers.mlp import SwiGLUPacked
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitquant.artifact import Pooling
from vitquant.models import pooling
from vitquant.models.vit import ViTClassifier
from vitquant.quantization import smoothing
from vitquant.quantization.smoothing import Smoothing
from vitquant.recipes.vitquant_int8.describe import describe
from vitquant.recipes.vitquant_int8.tensors import block_tensors, other_tensors
from vitquant.runtime.description import LINEAR
from vitquant.runtime.library import Library
from vitquant.runtime.network import Network

CLASSES = 5
SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "global_pool": "token", "num_classes": 0}
NO_CLASS: dict[str, Any] = {"class_token": False}
ROTARY: dict[str, Any] = {"kind": Eva, "use_rot_pos_emb": True, "global_pool": "avg"}
DINOV3: dict[str, Any] = {
    **{**ROTARY, "rope_type": "dinov3", "rope_rotate_half": True, "rope_temperature": 100, "dynamic_img_size": True},
    **{"use_abs_pos_emb": False, "num_reg_tokens": 4, "init_values": 0.5, "use_fc_norm": False},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "heads of 32": {"embed_dim": 64, "num_heads": 2},
    "heads of 64, registers": {"embed_dim": 128, "num_heads": 2, "img_size": 48, "reg_tokens": 4, "init_values": 0.5},
    "heads of 80, no bias": {"embed_dim": 160, "num_heads": 2, "img_size": 35, "patch_size": 7, "qkv_bias": False},
    "heads of 128": {"embed_dim": 128, "num_heads": 1, "mlp_ratio": 2},
    "heads of 36, norm before": {"embed_dim": 72, "num_heads": 2, "img_size": 24, "pre_norm": True},
    "five heads of 24, position of patches only": {"embed_dim": 120, "num_heads": 5, "no_embed_class": True},
    "distilled": {"kind": VisionTransformerDistilled, "embed_dim": 64, "num_heads": 1, "img_size": 24},
    "distilled, both tokens": {
        **{"kind": VisionTransformerDistilled, "embed_dim": 64, "num_heads": 1, "img_size": 24, "pooled": "two"},
    },
    "distilled, both tokens' mean": {
        **{"kind": VisionTransformerDistilled, "embed_dim": 64, "num_heads": 1, "img_size": 24, "pooled": "own"},
    },
    "class token, registers": {"embed_dim": 72, "num_heads": 2, "reg_tokens": 2, "pooled": "class"},
    "patches' mean, registers": {"embed_dim": 72, "num_heads": 2, "reg_tokens": 2, "pooled": "mean"},
    "any image size, no bias after attention": {
        **{"embed_dim": 64, "num_heads": 4, "dynamic_img_size": True, "proj_bias": False},
    },
    "two tokens": {"embed_dim": 64, "num_heads": 2, "img_size": 8},
    "CLIP": {"embed_dim": 64, "num_heads": 2, "pre_norm": True, "act_layer": "quick_gelu"},
    "SigLIP": {**NO_CLASS, "embed_dim": 72, "num_heads": 2, "global_pool": "map", "act_layer": "gelu_tanh"},
    "SigLIP, mean": {**NO_CLASS, "embed_dim": 64, "num_heads": 2, "global_pool": "avg", "fc_norm": False},
    "mean, then a norm; a register": {
        **{**NO_CLASS, "embed_dim": 64, "num_heads": 2, "global_pool": "avg", "reg_tokens": 1},
    },
    "DINOv2's giant": {"embed_dim": 64, "num_heads": 2, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU},
    "BEiT-3": {
        **{"embed_dim": 72, "num_heads": 3, "global_pool": "avg", "scale_attn_norm": True, "scale_mlp_norm": True},
    },
    "BEiT": {"kind": Beit, "embed_dim": 72, "num_heads": 2, "global_pool": "avg", "use_rel_pos_bias": True},
    "normalised queries and keys, no norm after": {
        **{"embed_dim": 72, "num_heads": 3, "qk_norm": True, "final_norm": False},
    },
    "DINOv3": {**DINOV3, "embed_dim": 128, "num_heads": 2, "qkv_bias": False},
    "DINOv3 plus": {**DINOV3, "embed_dim": 72, "num_heads": 2, "swiglu_mlp": True, "swiglu_align_to": 8},
    "EVA-02": {**ROTARY, "embed_dim": 64, "num_heads": 1, "swiglu_mlp": True, "ref_feat_shape": (2, 2)},
    "EVA-02 CLIP, heads of 36": {
        **{**ROTARY, "embed_dim": 72, "num_heads": 2, "swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False},
        **{"scale_attn_inner": True, "global_pool": "token"},
    },
    "rotations for each head": {**ROTARY, "embed_dim": 64, "num_heads": 2, "attn_type": "rope", "rope_type": "mixed"},
    "rotary, normalised queries and keys, heads of 20": {**ROTARY, "embed_dim": 40, "num_heads": 2, "qk_norm": True},
    "Perception Encoder": {
        **{**ROTARY, "embed_dim": 64, "num_heads": 2, "attn_type": "rope", "global_pool": "map"},
        **{"use_pre_transformer_norm": True, "num_reg_tokens": 0},
    },
}


class Classifier(ViTClassifier):
    """As the study's, with a backbone of one's own."""

    def __init__(self, backbone: Any, pooled: Pooling | None = None) -> None:
        nn.Module.__init__(self)
        self.backbone, self.pooling = backbone, pooled or pooling.of_probe(backbone)
        self.head = nn.Linear(self.feature_width, CLASSES)


def classifier(name: str, seed: int = 0) -> Any:
    """One of NETWORKS, with random weights."""
    torch.manual_seed(seed)
    options = {"kind": VisionTransformer, **SMALL, **NETWORKS[name]}
    pooled = options.pop("pooled", None)
    model = Classifier(options.pop("kind")(**options), pooled).requires_grad_(False).eval()
    for path, parameter in model.named_parameters():
        if path.endswith("bias_table"):
            parameter.copy_(torch.randn_like(parameter))
        if parameter.ndim == 1 or parameter.shape[0] == 1:  # biases, norms, scales, tokens, positions
            parameter.add_(0.2 * torch.randn_like(parameter))
    for block in model.backbone.blocks:
        for layer in (block.attn.qkv,) if block.attn.qkv is not None else (block.attn.q_proj, block.attn.k_proj):
            layer.weight *= 3  # attention that is not uniform
    return model


def quantized(model: Any) -> tuple[Network, nn.Module]:
    """The packed network, and the same integers in float64, their inputs rounded likewise."""
    description = describe(model)
    library, reference, tensors = Library(), copy.deepcopy(model).double(), {}
    for index, block in enumerate(model.backbone.blocks):
        path, hidden = f"backbone.blocks.{index}", block.mlp.fc2.in_features
        moments = {f"{path}.{name}": torch.eye(block.get_submodule(name).in_features).double() for name in LINEAR}
        centre, inverse = 0.1 * torch.randn(hidden), (0.3 * torch.randn(hidden)).exp()
        own = Smoothing(centre, 1 / inverse, 0.0, 1.0)
        centre, inverse = smoothing.left_to_activation(block, own)
        if not isinstance(block.mlp.norm, nn.LayerNorm):
            smoothing.rewrite_inputs(block.mlp.fc2, own)
        most = library.largest_weight_sum
        own = block_tensors(path, block, centre, inverse, moments, most)
        tensors |= own
        _as_integers(reference.backbone.blocks[index], path, own, library.zero_point - 1)
    tensors |= other_tensors(model, description)
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    return Network(description, arrays, "tensors", "a ViT"), reference


def _as_integers(block: Any, path: str, tensors: dict[str, Tensor], levels: int) -> None:
    """Give a block in float64 what the integers stand for."""
    block.attn.fused_attn, block.attn.scale = False, 1.0  # it is in the queries, or in their norm
    block.ls1 = block.ls2 = nn.Identity()  # as LayerScale is in the weights
    block.gamma_1 = block.gamma_2 = None
    depth = block.attn.head_dim
    order = (
        torch.arange(depth)
        if getattr(block.attn, "rotate_half", True)
        else torch.arange(depth).reshape(2, -1).T.flatten()
    )
    if isinstance(block.attn.q_norm, nn.LayerNorm):
        for part in ("weight", "bias"):
            scaled = tensors[f"{path}.attn.q_norm.{part}"].double()[order]
            setattr(block.attn.q_norm, part, nn.Parameter(scaled, requires_grad=False))
    centre, inverse = (tensors[f"{path}.mlp.{part}"].double() for part in ("centre", "inverse"))
    for name in LINEAR:
        layer = block.get_submodule(name)
        weight = tensors[f"{path}.{name}.weight"].double() * tensors[f"{path}.{name}.scale"].double()[:, None]
        bias = tensors[f"{path}.{name}.bias"].double()
        if name == "attn.qkv":
            weight, bias = (in_timms_order(rows, order) for rows in (weight, bias))
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(bias, requires_grad=False)

        def rounded(layer: nn.Module, inputs: tuple[Tensor], smoothed: bool = name == "mlp.fc2") -> Tensor:
            x = (inputs[0] - centre) * inverse if smoothed else inputs[0]
            step = x.abs().amax(dim=2, keepdim=True) / levels
            whole = (x / step).round()
            fine = step[:, 0] / (2 * levels)  # of the class token
            low = ((x - whole * step)[:, 0] / fine).round() * fine
            return torch.cat([(whole * step)[:, :1] + low[:, None], (whole * step)[:, 1:]], dim=1)

        layer.register_forward_pre_hook(rounded)


def in_timms_order(rows: Tensor, order: Tensor) -> Tensor:
    """Queries' and keys' rows, (3 × heads × depth, …), whose pairs the artifact has in two halves."""
    by_head = rows.unflatten(0, (3, -1, len(order))).clone()
    by_head[:2] = by_head[:2, :, order]
    return by_head.flatten(0, 2)


def images(model: Any, count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random ones of the model's size."""
    side = model.backbone.patch_embed.img_size[0]
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32)


def dinov2(side: int) -> Any:
    """DINOv2 with registers, narrower."""
    name = "vit_small_patch14_reg4_dinov2"
    return Classifier(
        timm.create_model(name, num_classes=0, img_size=side, depth=3, embed_dim=96, num_heads=3, init_values=0)
    ).requires_grad_(False).eval()  # fmt: skip
