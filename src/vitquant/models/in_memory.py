"""A person's own model, in memory, as the recipes know one: a copy of it that is seen to compute the same."""

from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from vitquant.errors import VitquantError
from vitquant.images import Preprocessing
from vitquant.models import biases, layouts, own_head, pooling
from vitquant.models.names import MODULES
from vitquant.models.vit import ViTClassifier

CLOSE = 1e-3  # of the largest output: what two ways to compute the same in FP32 stay below
MAKE = "make it by timm.create_model, and load your weights into that"


def copied(model: nn.Module, images: Any) -> tuple[ViTClassifier, str, Preprocessing]:
    """The model as the recipes know it, in FP32 on the CPU, its timm name, and its configuration's preprocessing.

    Args:
        model: of timm's.
        images: what it will see; preprocessed ones, (N, 3, H, W), tell the size that it takes where itself does not.

    Raises:
        VitquantError: it is none of timm's transformers for square images, was changed, or has broken weights.
    """
    kind = type(model).__name__
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if not name or not timm.models.is_model_in_modules(name, MODULES):
        raise VitquantError(f"{kind} is no ViT of timm's, nor another of its transformers for images: {MAKE}")
    config_of: Any = resolve_model_data_config  # timm's functions have no types
    config = config_of(model)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is None:
        is_preprocessed = isinstance(images, Tensor) and images.ndim == 4  # noqa: PLR2004
        size = images.shape[2:] if is_preprocessed else config["input_size"][1:]
    if size[0] != size[1]:
        raise VitquantError(f"this {kind} takes images of {size[0]} × {size[1]} pixels: recipes are for square ones")
    side = int(size[0])
    state = {key: tensor.detach().float().cpu() for key, tensor in _whole(model).items()}
    copy = ViTClassifier(name, side, 0).requires_grad_(False).eval()
    copy.pooling = pooling.of_embedding(model)
    expected = copy.backbone.state_dict()
    backbone, classifier = layouts.parts(biases.join_weights(state), expected.keys())
    for key in [*expected, *backbone]:
        ours, theirs = (tuple(each[key].shape) if key in each else "absent" for each in (expected, backbone))
        if ours != theirs:
            raise VitquantError(
                f"the model is not {name} as timm.create_model({name!r}) makes it for {side} pixels: its layers are "
                f"others: {key} is {theirs}, and there {ours}"
            )
    copy.backbone.load_state_dict(backbone)
    if classifier:
        count = len(next(iter(classifier.values())))
        own_head.attach(copy, classifier, [str(row) for row in range(count)], None)
    preprocessing = Preprocessing(
        resize=max(side, int(side / config["crop_pct"])), crop=side, crop_mode=config.get("crop_mode", "center"),
        interpolation=config["interpolation"], mean=list(config["mean"]), std=list(config["std"]),
    )  # fmt: skip
    return copy, name, preprocessing


def compare(model: nn.Module, copy: ViTClassifier, images: Tensor, name: str) -> None:
    """See that the copy computes what the model does, whatever options that was made with.

    Args:
        images: preprocessed, float32 (N, 3, H, W).

    Raises:
        VitquantError: it does not, or the model fails.
    """
    modes = {module: module.training for module in model.modules()}
    first = next(model.parameters())
    try:
        with torch.inference_mode():
            theirs = model.eval()(images.to(first.device, first.dtype)).float().cpu()
            ours = copy(images)
    except MemoryError:
        raise
    except Exception as error:  # a model can raise any
        said = " ".join(str(error).split())[:200]
        raise VitquantError(f"the model does not run on the images: {type(error).__name__}: {said}") from None
    finally:
        for module, mode in modes.items():
            module.training = mode
    width = 0 if isinstance(copy.head, nn.Identity) else copy.head.out_features
    ours = ours[:, : width or None]
    if not theirs.isfinite().all():
        raise VitquantError("the model gives NaN or infinity for the first calibration image: its weights are broken")
    close = CLOSE if first.dtype == torch.float32 else 0.05
    if ours.shape != theirs.shape or not (ours - theirs).abs().max() <= close * theirs.abs().max():
        raise VitquantError(
            f"the model does not compute what timm.create_model({name!r}) does with its weights: it was made with "
            "other options, which a recipe would not know"
        )


def _whole(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors, all of which must have memory, and be finite."""
    tensors: dict[str, Tensor] = model.state_dict()
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise VitquantError(f"{name} is on the meta device, where it has no values: load the model's weights")
        if not tensor.isfinite().all():
            raise VitquantError(f"{name} holds NaN or infinity: the model's weights are broken")
    return tensors
