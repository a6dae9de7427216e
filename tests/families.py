"""A small member of each family of timm's transformers for images, with random weights of which every one matters.

timm knows them by name wherever this module is imported, so that artifacts of them can be made and loaded.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from conftest import CLASSES, draw_image
from numpy.typing import NDArray
from timm.models import register_model
from torch import nn

from vitquant import artifact
from vitquant.images import Preprocessing
from vitquant.models.vit import ViTClassifier
from vitquant.predictor import write_weights
from vitquant.traits import FP32

SIDE, IMAGES = 64, 16
SMALL = {"depth": 2, "embed_dim": 128, "num_heads": 2}
PREPROCESSING = Preprocessing(resize=72, crop=SIDE, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3)


@dataclass(frozen=True)
class Family:
    """timm's name of a member, and what makes it small."""

    member: str
    options: dict[str, Any] = field(default_factory=lambda: {**SMALL, "patch_size": 8})
    refused: str = ""
    """Why vitquant-int8 does not run it; empty where it does."""
    not_smoothed: str = ""
    """Likewise, dynamic-int8-smooth."""

    @property
    def name(self) -> str:
        """Of the small member, as timm knows it."""
        return f"small_{self.member}"


SMALL_SWIN = {"depths": (2, 2), "embed_dim": 32, "num_heads": (1, 2), "window_size": 4}
FAMILIES = {
    "ViT": Family("vit_base_patch16_224"),
    "DeiT": Family("deit_tiny_patch16_224"),
    "DeiT, distilled": Family("deit_tiny_distilled_patch16_224"),
    "DeiT III": Family("deit3_small_patch16_224"),
    "DINOv2": Family("vit_small_patch14_dinov2"),
    "DINOv2, registers": Family("vit_small_patch14_reg4_dinov2"),
    "DINOv2, giant": Family("vit_giant_patch14_reg4_dinov2"),
    "DINOv3": Family("vit_small_patch16_dinov3"),
    "DINOv3, qkv bias": Family("vit_small_patch16_dinov3_qkvb"),
    "DINOv3, plus": Family("vit_small_plus_patch16_dinov3"),
    "EVA": Family("eva_giant_patch14_224", {**SMALL, "patch_size": 8, "mlp_ratio": 4}),
    "EVA-02": Family("eva02_tiny_patch14_224"),
    "EVA-02, norms": Family("eva02_base_patch14_224"),
    "EVA-02 CLIP": Family("eva02_base_patch16_clip_224"),
    "CLIP": Family("vit_base_patch16_clip_224"),
    "CLIP, OpenAI's GELU": Family("vit_base_patch16_clip_quickgelu_224"),
    "SigLIP": Family("vit_base_patch16_siglip_224"),
    "SigLIP 2": Family("vit_so400m_patch16_siglip_256", {**SMALL, "patch_size": 8, "mlp_ratio": 4}),
    "SigLIP, mean": Family("vit_base_patch16_siglip_gap_224"),
    "ViT, mean": Family("vit_medium_patch16_gap_240"),
    "RoPE-ViT, mixed": Family("vit_small_patch16_rope_mixed_224"),
    "Perception Encoder": Family("vit_pe_core_tiny_patch16_384"),
    "BEiT-3": Family("beit3_base_patch16_224"),
    "BEiT": Family("beit_base_patch16_224"),
    "AIMv2": Family(
        "aimv2_large_patch14_224", refused="norm1 is of type RmsNorm", not_smoothed="norm1 is of type RmsNorm"
    ),
    "Swin": Family(
        "swin_tiny_patch4_window7_224", SMALL_SWIN, "its type is SwinTransformer", "its type is SwinTransformer"
    ),
    "Swin V2": Family(
        "swinv2_tiny_window8_256", SMALL_SWIN, "its type is SwinTransformerV2", "its type is SwinTransformerV2"
    ),
}


def _register(family: Family) -> None:
    large = timm.model_entrypoint(family.member)

    def small(pretrained: bool = False, **options: Any) -> nn.Module:
        return large(pretrained, **{**family.options, **options})

    small.__name__, small.__module__ = family.name, large.__module__
    setattr(sys.modules[large.__module__], family.name, small)
    register_model(small)


for _family in FAMILIES.values():
    _register(_family)


def images(first: int, count: int) -> NDArray[np.uint8]:
    """Generated photographs, uint8 (N, SIDE, SIDE, 3); by their numbers, so that others are other ones."""
    numbers = range(first, first + count)
    return np.stack([PREPROCESSING.pixels(draw_image(CLASSES[i % len(CLASSES)], i)) for i in numbers])


def strengthen(model: nn.Module, seed: int = 0) -> None:
    """Draw weights with which every part changes the output: timm starts LayerScale and biases at almost nothing."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            is_gain = name.endswith(("weight", "gamma", "gamma_1", "gamma_2"))
            parameter.data = (0.8 if is_gain else 0.0) + 0.2 * noise
        elif name.endswith("weight"):
            parameter.data = noise / parameter[0].numel() ** 0.5
        else:  # tokens, positions, tables
            parameter.data = 0.5 * noise


def write(family: Family, path: Path) -> None:
    """The FP32 artifact of a family's small member, whose head tells each of `images(0, IMAGES)` from all others."""
    model = ViTClassifier(family.name, SIDE, IMAGES).eval().requires_grad_(False)
    strengthen(model)
    features = model.features(PREPROCESSING.normalise(torch.from_numpy(images(0, IMAGES))))
    centred = features - features.mean(dim=0)
    model.head.weight.copy_(centred / centred.norm(dim=1, keepdim=True))
    model.head.bias.copy_(-model.head.weight @ features.mean(dim=0))
    spec = artifact.Spec(
        recipe="fp32",
        method="fp32",
        options={},
        traits=FP32,
        architecture=family.name,
        preprocessing=PREPROCESSING,
        classes=[f"image {number}" for number in range(IMAGES)],
        pooling=model.pooling,
    )
    artifact.write(path, spec, lambda directory: write_weights(directory, model.state_dict()) or {})


def cosines(given: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row by row."""
    lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
    return (given * expected).sum(axis=1) / lengths
