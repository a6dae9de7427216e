"""The classifier under study: a timm ViT, and one linear head over its tokens."""

import math
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vitquant.errors import VitquantError
from vitquant.images import Preprocessing
from vitquant.models.names import check_name
from vitquant.params import Images


class ViTClassifier(nn.Module):
    """A timm ViT and a linear head over the class token and the mean patch token, concatenated.

    It gives the logits and, beside them, the class token after the backbone's last norm.

    Args:
        name: the timm architecture.
        image_size: height and width of the input, pixels.
        classes: number of classes C.

    Raises:
        VitquantError: timm has no such ViT, or it has no class token.
    """

    def __init__(self, name: str, image_size: int, classes: int) -> None:
        super().__init__()
        self.backbone = create_backbone(name, image_size)
        self.head = nn.Linear(2 * self.backbone.num_features, classes)

    def features(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to float32 features (N, 2 × width): class token, mean patch token."""
        tokens = self.backbone.forward_features(images)
        patches = tokens[:, self.backbone.num_prefix_tokens :]
        return torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to logits and class token, float32 (N, C + width)."""
        return self.outputs(self.features(images))

    def outputs(self, features: Tensor) -> Tensor:
        """Features, float32 (N, 2 × width), to logits and class token, float32 (N, C + width)."""
        return torch.cat([self.head(features), features[:, : self.backbone.num_features]], dim=1)


def create_backbone(name: str, image_size: int, **options: Any) -> Any:
    """The timm ViT `name` for square images of `image_size` pixels, without its classifier; never downloads.

    Args:
        options: further ones of timm's.

    Raises:
        VitquantError: timm has no such ViT, or it has no class token.
    """
    check_name(name)
    backbone = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size, **options)
    if backbone.cls_token is None:
        raise VitquantError(f"model.name: {name!r} has no class token, which the linear head reads")
    return backbone


def preprocessing(name: str, images: Images) -> Preprocessing:
    """How images become the input: as `images` says, and where that says auto, as the architecture expects.

    A size to resize to belongs to a crop mode: one of the person's own is the shorter side's, the configuration's what
    its mode says.

    Raises:
        VitquantError: timm has no such ViT, the crop does not divide into its patches, or exceeds the resized image.
    """
    check_name(name)
    config: Any = timm.get_pretrained_cfg(name, allow_unregistered=False)
    crop = config.input_size[-1] if images.crop == "auto" else images.crop
    if images.resize == "auto":
        resize, crop_mode = math.floor(crop / config.crop_pct), config.crop_mode
    else:
        resize, crop_mode = images.resize, "center"
    interpolation = config.interpolation if images.interpolation == "auto" else images.interpolation
    if crop > resize:
        raise VitquantError(f"data.crop: {crop} pixels do not fit into the resized image's {resize}")
    with torch.device("meta"):  # no memory for the weights, nor time
        patch = create_backbone(name, crop, weight_init="skip").patch_embed.patch_size[0]
    if crop % patch:
        raise VitquantError(f"data.crop: {crop} pixels do not divide into the patches of {name}, {patch} pixels each")
    mean, std = list(config.mean), list(config.std)
    return Preprocessing(resize=resize, crop=crop, crop_mode=crop_mode, interpolation=interpolation, mean=mean, std=std)
