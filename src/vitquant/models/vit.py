"""The model under study: a timm ViT, and one linear head over what it makes of an image, or none."""

import math
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitquant.artifact import Pooling
from vitquant.errors import VitquantError
from vitquant.images import Preprocessing
from vitquant.models import biases, pooling
from vitquant.models.names import check_name
from vitquant.params import Images, Params

PLAIN = ("vision_transformer", "deit")  # modules of timm


class ViTClassifier(nn.Module):
    """A timm ViT and a linear head over its features: its tokens, pooled.

    It gives the logits and, beside them, an embedding: the first D features, which are the class token after the
    backbone's last norm where features begin with that. Without classes it gives that alone, and has no head.

    Args:
        name: the timm architecture.
        image_size: height and width of the input, pixels.
        classes: number of classes C.
        pooled: how tokens become features; if not said, as a head reads them that is fitted here.

    Raises:
        VitquantError: timm has no such ViT, or not for such images.
    """

    def __init__(self, name: str, image_size: int, classes: int, pooled: Pooling | None = None) -> None:
        super().__init__()
        self.image_size = image_size
        self.backbone = create_backbone(name, image_size)
        self.pooling = pooled or pooling.of_probe(self.backbone)
        self.head: Any = nn.Linear(self.feature_width, classes) if classes else nn.Identity()

    @property
    def feature_width(self) -> int:
        """Of the features, F."""
        return pooling.feature_width(self.backbone, self.pooling)

    def features(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to float32 features (N, F)."""
        return pooling.features(self.backbone, images, self.pooling)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to logits and embedding, float32 (N, C + D)."""
        return self.outputs(self.features(images))

    def outputs(self, features: Tensor) -> Tensor:
        """Features, float32 (N, F), to logits and embedding, float32 (N, C + D)."""
        embedding = features[:, : pooling.pooled_width(self.backbone)]
        return embedding if isinstance(self.head, nn.Identity) else torch.cat([self.head(features), embedding], dim=1)


def create_backbone(name: str, image_size: int, **options: Any) -> Any:
    """The timm ViT `name` for square images of `image_size` pixels, without its classifier; never downloads.

    Args:
        options: further ones of timm's.

    Raises:
        VitquantError: timm has no such ViT, or it takes no such images.
    """
    check_name(name)
    try:
        backbone = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size, **options)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise VitquantError(f"{name} does not take images of {image_size} pixels: {_said(error)}") from None
    biases.join(backbone)
    return backbone


def is_plain(name: str, image_size: int) -> bool:
    """Whether it is a ViT that every engine is known to take: of timm's plain ones, and with a class token to read."""
    if not timm.models.is_model_in_modules(name, PLAIN):
        return False
    with torch.device("meta"):
        return pooling.reads_class_token(create_backbone(name, image_size))


def check_size(name: str, crop: int) -> None:
    """See that the architecture takes square images of `crop` pixels, and gives one row of features for each.

    Raises:
        VitquantError: it does not.
    """
    with torch.device("meta"):  # no memory for the weights, nor time
        try:
            backbone = create_backbone(name, crop)
        except VitquantError as error:
            raise VitquantError(f"data.crop: {error}") from None
        patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", 1)
        patch = patch[0] if isinstance(patch, tuple) else patch
        published: Any = timm.get_pretrained_cfg(name, allow_unregistered=False)
        if crop % patch and crop != published.input_size[-1]:  # some are published so: what is left over goes unseen
            raise VitquantError(
                f"data.crop: {crop} pixels do not divide into the patches of {name}, {patch} pixels each"
            )
        if isinstance(backbone, VisionTransformer) and pooling.reads_class_token(backbone):
            return  # which is known to
        try:
            pooled = pooling.of_probe(backbone)
            found = pooling.features(backbone.eval(), torch.empty(1, 3, crop, crop), pooled).shape
        except Exception as error:  # whatever a model says of images that it does not take, or of an encoder's head
            raise VitquantError(
                f"model.name: {name} with data.crop: {crop} gives no features: {_said(error)}"
            ) from None
    if tuple(found) != (1, pooling.feature_width(backbone, pooling.of_probe(backbone))):
        raise VitquantError(f"model.name: {name!r} gives {tuple(found)} for an image, and not one row of features")


def check(params: Params) -> None:
    """See that the study's architecture takes its images, and gives the embedding that it wants.

    Raises:
        VitquantError: it does not.
    """
    crop = preprocessing(params.model.name, params.data).crop
    if params.head == "features":
        with torch.device("meta"):
            pooling.of_study(create_backbone(params.model.name, crop), params.embedding.pooling, params.model.name)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def preprocessing(name: str, images: Images) -> Preprocessing:
    """How images become the input: as `images` says, and where that says auto, as the architecture expects.

    A size to resize to belongs to a crop mode: one of the person's own is the shorter side's, the configuration's what
    its mode says.

    Raises:
        VitquantError: timm has no such ViT, the crop does not divide into its patches, or exceeds the resized image.
    """
    check_name(name, "model.name")
    config: Any = timm.get_pretrained_cfg(name, allow_unregistered=False)
    crop = config.input_size[-1] if images.crop == "auto" else images.crop
    if images.resize == "auto":
        resize, crop_mode = math.floor(crop / config.crop_pct), config.crop_mode
    else:
        resize, crop_mode = images.resize, "center"
    interpolation = config.interpolation if images.interpolation == "auto" else images.interpolation
    if crop > resize:
        raise VitquantError(f"data.crop: {crop} pixels do not fit into the resized image's {resize}")
    check_size(name, crop)
    mean, std = list(config.mean), list(config.std)
    return Preprocessing(resize=resize, crop=crop, crop_mode=crop_mode, interpolation=interpolation, mean=mean, std=std)
