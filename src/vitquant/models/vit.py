"""The model under study: a timm ViT, and one linear head over its pooled tokens, or none."""

import math
from typing import Any

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from vitquant.artifact import Pooling, Spec
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.images import Preprocessing
from vitquant.models.names import check_name
from vitquant.params import Images


class ViTClassifier(nn.Module):
    """A timm ViT and a linear head over its features: its tokens, pooled.

    It gives the logits and, beside them, an embedding: the first `width` features, which are the class token after the
    backbone's last norm where features begin with that. Without classes it gives the features alone, and has no head.

    Args:
        name: the timm architecture.
        image_size: height and width of the input, pixels.
        classes: number of classes C.
        pooling: of the tokens.

    Raises:
        VitquantError: timm has no such ViT, or it has no class token.
    """

    def __init__(self, name: str, image_size: int, classes: int, pooling: Pooling = "tokens") -> None:
        super().__init__()
        self.backbone = create_backbone(name, image_size)
        self.pooling = pooling
        self.head: Any = nn.Linear(self.feature_width, classes) if classes else nn.Identity()

    @property
    def feature_width(self) -> int:
        """Of the features, F."""
        width = int(self.backbone.num_features)
        return 2 * width if self.pooling in ("tokens", "two") else width

    def features(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to float32 features (N, F)."""
        return self.pool(self.backbone.forward_features(images))

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block and norm, (N, T, width), to features (N, F)."""
        if self.pooling == "own":
            pooled: Tensor = self.backbone.forward_head(tokens, pre_logits=True)
            return pooled
        if self.pooling == "class":
            return tokens[:, 0]
        if self.pooling == "two":
            return tokens[:, :2].flatten(1)
        mean = tokens[:, self.backbone.num_prefix_tokens :].mean(dim=1)
        return mean if self.pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to logits and embedding, float32 (N, C + width), or to (N, F)."""
        return self.outputs(self.features(images))

    def outputs(self, features: Tensor) -> Tensor:
        """Features, float32 (N, F), to logits and embedding, float32 (N, C + width); or as they are."""
        if isinstance(self.head, nn.Identity):
            return features
        return torch.cat([self.head(features), features[:, : self.backbone.num_features]], dim=1)


def own_pooling(backbone: Any) -> Pooling:
    """What a timm ViT's own classifier reads, by a plainer name where there is one."""
    if isinstance(backbone, VisionTransformerDistilled):
        return "two"
    plain = getattr(backbone, "attn_pool", None) is None and isinstance(getattr(backbone, "fc_norm", None), nn.Identity)
    if plain and backbone.global_pool == "token":
        return "class"
    if plain and backbone.global_pool == "avg" and not backbone.pool_include_prefix:
        return "mean"
    return "own"


def own_embedding(backbone: Any) -> Pooling:
    """What a timm ViT gives without its classifier: of two tokens it is their mean."""
    pooling = own_pooling(backbone)
    return "own" if pooling == "two" else pooling


def use_token_head(model: ViTClassifier) -> None:
    """Make the head one over the class token and the mean patch token, concatenated, in place: as native code has it.

    What is wanted beside the logits, and native code does not give by itself, it copies: `wanted` then finds that.

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
        if not len(weight):  # native code has a class at least
            weight = torch.zeros(1, 2 * width)
    bias = torch.cat([bias, torch.zeros(len(weight) - len(bias), device=bias.device)])
    whole = nn.Linear(weight.shape[1], len(weight), device="meta").requires_grad_(False)
    whole.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    model.head, model.pooling = whole, "tokens"


def wanted(outputs: Tensor, spec: Spec) -> Tensor:
    """Of what native code gives after `use_token_head`, (N, rows + width), what the artifact gives, as a view."""
    classes = len(spec.classes)
    if spec.pooling == "mean":
        return outputs[:, : (outputs.shape[1] + classes) // 2]
    return outputs if classes else outputs[:, 1:]


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
