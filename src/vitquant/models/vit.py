"""The classifier under study: a timm ViT, and one linear head over its tokens."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from vitquant.errors import VitquantError


class ViTClassifier(nn.Module):
    """A timm ViT and a linear head over the class token and the mean patch token, concatenated.

    Args:
        name: the timm architecture.
        image_size: height and width of the input, pixels.
        classes: number of classes C.

    Raises:
        VitquantError: timm has no such ViT.
    """

    def __init__(self, name: str, image_size: int, classes: int) -> None:
        super().__init__()
        self.backbone = create_backbone(name, image_size)
        self.head = nn.Linear(2 * self.backbone.num_features, classes)

    def features(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to float32 features (N, 2 × width)."""
        tokens = self.backbone.forward_features(images)
        patches = tokens[:, self.backbone.num_prefix_tokens :]
        return torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to float32 logits (N, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def create_backbone(name: str, image_size: int) -> Any:
    """The timm ViT `name` for square images of `image_size` pixels, without its classifier; never downloads."""
    if not timm.models.is_model_in_modules(name, {"vision_transformer"}):
        raise VitquantError(f"model.name: timm has no ViT {name!r}; `timm.list_models('vit_*')` lists those it has")
    backbone = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size)
    if backbone.cls_token is None:
        raise VitquantError(f"model.name: {name!r} has no class token, which the linear head reads")
    return backbone


def normalisation(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per RGB channel, on the 0 to 1 scale, that the architecture expects."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    assert config is not None
    return list(config.mean), list(config.std)
