"""INT8 end to end: smoothed, GPTQ-rounded weights, per-token activations, and native code of our own.

Every linear layer of the blocks multiplies INT8 weights (per-channel scales) by 8-bit activations (per-token scales).
All of the model runs in one native call (vitquant.runtime). Smoothing costs nothing at run time: it is folded into
LayerNorm, into the value rows of qkv, and into the GELU that fc2's inputs come from. The class token, which the
classifier reads, is quantized as a high and a low part. docs/vitquant-int8.md has what each step gave.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.patch_embed import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitquant.artifact import Artifact
from vitquant.errors import UnsupportedError
from vitquant.models.loading import load_model
from vitquant.models.vit import use_token_head, wanted
from vitquant.params import Section
from vitquant.predictor import write_weights
from vitquant.quantization import rounding, smoothing
from vitquant.quantization.smoothing import LAYERS
from vitquant.runtime import classifier, network
from vitquant.runtime.library import Library
from vitquant.runtime.network import Description
from vitquant.traits import Traits


class Options(Section):
    """None: what is best is what it does."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    return Traits(weight_bits=8, activation_bits=8, arithmetic="int8", execution="compiled", devices=("cpu",))


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Observe, smooth, round and write the integer weights, and describe the network.

    Raises:
        UnsupportedError: the model is no plain ViT, or the native code cannot be compiled.
    """
    model = load_model(fp32)
    add_biases(model)
    use_token_head(model)
    description = describe(model)
    tensors: dict[str, Tensor] = {}
    most = Library().largest_weight_sum  # compiled now, and not when it is first loaded
    images = fp32.spec.preprocessing.normalise(torch.from_numpy(calibration))
    chosen, moments = smoothing.smooth(model, images, per_token=True)
    for index, block in enumerate(model.backbone.blocks):
        path = f"backbone.blocks.{index}"
        fc2 = chosen[f"{path}.mlp.fc2"]
        tensors |= block_tensors(path, block, fc2.centre, 1 / fc2.scale, moments, most)
    tensors |= other_tensors(model)
    write_weights(directory, {name: tensor.detach() for name, tensor in tensors.items()})
    network.write(directory, description)
    return {"smoothing_strengths": {name: smoothing.strength for name, smoothing in chosen.items()}}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Pack the integer weights for this CPU.

    Raises:
        VitquantError: the artifact's tensors are not what it says of its network, or it says nothing.
        UnsupportedError: they were rounded for a CPU with VNNI, and this one would sum them wrongly.
    """
    packed = classifier.read(artifact)

    def forward(images: Tensor) -> Tensor:
        return wanted(torch.from_numpy(packed.forward(images.numpy(), torch.get_num_threads())), artifact.spec)

    return forward


def add_biases(model: Any) -> None:
    """Give the blocks' linear layers that have no bias one of zeros."""
    for name, layer in model.backbone.blocks.named_modules():
        if name.partition(".")[2] in LAYERS and isinstance(layer, nn.Linear) and layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_features), requires_grad=False)


def describe(model: Any) -> Description:
    """What the runtime has to know of a classifier.

    Raises:
        UnsupportedError: it is none that the runtime can run; the message says why.
    """
    backbone = model.backbone
    oddity = _oddity(backbone)
    if oddity:
        raise UnsupportedError(f"vitquant-int8 runs plain ViTs, and this one is not: {oddity}")
    embedding = backbone.patch_embed
    smoothing.check_blocks(model)
    block = backbone.blocks[0]
    return Description(
        side=embedding.img_size[0],
        channels=embedding.proj.in_channels,
        patch=embedding.patch_size[0],
        width=backbone.embed_dim,
        blocks=len(backbone.blocks),
        heads=block.attn.num_heads,
        depth=block.attn.head_dim,
        hidden=block.mlp.fc1.out_features,
        prefix=backbone.num_prefix_tokens,
        classes=model.head.out_features,
        epsilon=backbone.norm.eps,
        norm_before=isinstance(backbone.norm_pre, nn.LayerNorm),
    )


def _oddity(backbone: Any) -> str:
    """The first thing in which a backbone, but for its blocks, is no plain ViT; empty where nothing is."""
    if type(backbone) not in (VisionTransformer, VisionTransformerDistilled):
        return f"its type is {type(backbone).__name__}"
    embedding = backbone.patch_embed
    if type(embedding) is not PatchEmbed:
        return f"its patch embedding is a {type(embedding).__name__}"
    if not isinstance(embedding.norm, nn.Identity):
        return "its patch embedding has a norm"
    if not isinstance(backbone.norm, nn.LayerNorm):
        return f"norm is of type {type(backbone.norm).__name__}"
    norms = [module for module in backbone.modules() if isinstance(module, nn.LayerNorm)]
    return "its LayerNorms' epsilons differ" if len({norm.eps for norm in norms}) > 1 else ""


def other_tensors(model: Any) -> dict[str, Tensor]:
    """All tensors but the blocks': `backbone.tokens`, (1, tokens, width), is what tokens are beside their pixels."""
    backbone = model.backbone
    conv, grid = backbone.patch_embed.proj, backbone.patch_embed.grid_size
    nothing = torch.zeros(1, *grid, backbone.embed_dim)
    if conv.bias is not None:
        nothing += conv.bias
    own = {"backbone.patch_embed.proj.weight": conv.weight}
    own["backbone.tokens"] = backbone._pos_embed(nothing if backbone.dynamic_img_size else nothing.flatten(1, 2))
    kept = {"backbone.norm": backbone.norm, "backbone.norm_pre": backbone.norm_pre, "head": model.head}
    return own | {f"{name}.{part}": tensor for name, module in kept.items()
                  for part, tensor in module.state_dict().items()}  # fmt: skip


def block_tensors(
    path: str, block: Any, centre: Tensor, inverse: Tensor, moments: dict[str, Tensor], most: int | None
) -> dict[str, Tensor]:
    """A block's tensors, its linear layers as integers; attention's scale and LayerScale are folded, in place.

    Args:
        path: of the block, before the tensors' names.
        centre: of fc2's inputs, float32 (hidden,).
        inverse: of the scale of fc2's inputs, likewise.
        moments: of each linear layer's inputs, by path and name; they are taken out.
        most: as `Library.largest_weight_sum`.
    """
    _fold_scales(block)
    tensors = {f"{path}.mlp.centre": centre, f"{path}.mlp.inverse": inverse}
    for norm in ("norm1", "norm2"):
        for part in ("weight", "bias"):
            tensors[f"{path}.{norm}.{part}"] = getattr(block.get_submodule(norm), part)
    for layer in LAYERS:
        name = f"{path}.{layer}"
        tensors |= _quantize(name, block.get_submodule(layer), moments.pop(name), most)
    return tensors


def _fold_scales(block: Any) -> None:
    """Fold attention's 1/√depth into the query rows and LayerScale into proj and fc2, in place."""
    attention, depth = block.attn, block.attn.qkv.out_features // 3 // block.attn.num_heads
    queries = slice(None, attention.qkv.out_features // 3)
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        parameter[queries] *= depth**-0.5
    for layer, scale in ((attention.proj, block.ls1), (block.mlp.fc2, block.ls2)):
        if not isinstance(scale, nn.Identity):
            layer.weight *= scale.gamma[:, None]
            layer.bias *= scale.gamma


def _quantize(name: str, layer: Any, moment: Tensor, most: int | None) -> dict[str, Tensor]:
    if most:
        integers, scale = rounding.gptq_within(layer.weight, moment, most)
    else:
        scale = rounding.scales(layer.weight)
        integers = rounding.gptq(layer.weight, scale, moment)
    return {f"{name}.weight": integers, f"{name}.scale": scale, f"{name}.bias": layer.bias}
