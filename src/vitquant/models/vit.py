"""The classifier under study: a timm ViT, and one linear head over its tokens."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from vitquant.errors import VitquantError
from vitquant.images import Preprocessing
from vitquant.params import Images


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
    _check_name(name)
    backbone = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size)
    if backbone.cls_token is None:
        raise VitquantError(f"model.name: {name!r} has no class token, which the linear head reads")
    return backbone


def preprocessing(name: str, images: Images) -> Preprocessing:
    """How images become the input: as `images` says, and where that says auto, as the architecture expects.

    Raises:
        VitquantError: the crop does not divide into the architecture's patches, or exceeds the resized image.
    """
    config = _config(name)
    crop = config.input_size[-1] if images.crop == "auto" else images.crop
    resize = round(crop / config.crop_pct) if images.resize == "auto" else images.resize
    interpolation = config.interpolation if images.interpolation == "auto" else images.interpolation
    if crop > resize:
        raise VitquantError(f"data.crop: {crop} pixels do not fit into the resized image's {resize}")
    with torch.device("meta"):  # no memory for the weights
        patch = create_backbone(name, crop).patch_embed.patch_size[0]
    if crop % patch:
        raise VitquantError(f"data.crop: {crop} pixels do not divide into the patches of {name}, {patch} pixels each")
    mean, std = list(config.mean), list(config.std)
    return Preprocessing(resize=resize, crop=crop, interpolation=interpolation, mean=mean, std=std)


def _check_name(name: str) -> None:
    if not timm.models.is_model_in_modules(name.partition(".")[0], {"vision_transformer"}):
        raise VitquantError(f"model.name: timm has no ViT {name!r}; `timm.list_models('vit_*')` lists those it has")


def _config(name: str) -> Any:
    _check_name(name)
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    assert config is not None
    return config
