"""A ViT's weights, from the place that `model.source` names, into the model."""

import importlib
import math
import sys
from collections.abc import Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import vision_transformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitquant.errors import VitquantError
from vitquant.models import biases, download, onnx_vit, position, transformers_vit
from vitquant.models.checkpoint import COUNTER, read
from vitquant.models.layouts import CLASSIFIER, parts, shown
from vitquant.models.vit import ViTClassifier, create_backbone
from vitquant.params import Dinov2Model, FileModel, Model, OnnxWheelModel, RandomModel

DINOV2_OFFSET = 0.1  # of its position embedding's interpolation, see vitquant.models.position


def load_into(model: ViTClassifier, params: Model, raw: Path) -> dict[str, Tensor]:
    """Fill the model's backbone from the raw weights; its head is left alone.

    Returns:
        The tensors of the classifier that lies beside them, by timm's names; none, where there is none.

    Raises:
        VitquantError: the file cannot be read, or a weight is missing, left over, of another shape, or not finite.
    """
    backbone = model.backbone
    file = raw / download.file_name(params)
    classifier: dict[str, Tensor] = {}
    if isinstance(params, RandomModel):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed)
            weights = create_backbone(params.name, model.image_size).state_dict()
        _check(weights, backbone.state_dict(), file)
    elif isinstance(params, OnnxWheelModel):
        weights = onnx_vit.state_dict(file, grid=backbone.patch_embed.grid_size[0])
        _check(weights, backbone.state_dict(), file)
    else:
        try:
            weights, classifier = _fit(
                file, params.name, model.image_size, backbone, like_dinov2=isinstance(params, Dinov2Model)
            )
        except VitquantError as error:
            raise VitquantError(
                f"model.path: {params.path}: {error}" if isinstance(params, FileModel) else error
            ) from None
    backbone.load_state_dict(backbone.state_dict() | weights)  # a batch norm's counter may be missing
    return classifier


def check_file(file: Path, name: str, image_size: int) -> dict[str, Tensor]:
    """See that a person's file has the weights of the timm ViT `name` for images of `image_size` pixels.

    Returns:
        The tensors of the classifier that lies beside them, by timm's names; none, where there is none.

    Raises:
        VitquantError: as `load_into`.
    """
    with torch.device("meta"):  # no memory for the weights, nor time
        backbone = create_backbone(name, image_size)
    return _fit(file, name, image_size, backbone, like_dinov2=False)[1]


def _fit(
    file: Path, name: str, side: int, backbone: Any, like_dinov2: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file's weights as the backbone has them, checked, and those of its classifier."""
    expected = backbone.state_dict()
    tensors = read(file)
    weights, classifier = parts(tensors, expected.keys())
    if isinstance(backbone, VisionTransformer):
        _resize_position_embedding(weights, backbone, like_dinov2)
    weights = biases.join_weights(_as_timm_loads_them(weights, name, side))
    _check(weights, expected, file, of_transformers=transformers_vit.are_theirs(tensors))
    return weights, classifier


def _resize_position_embedding(weights: dict[str, Tensor], backbone: Any, like_dinov2: bool) -> None:
    """Fit `pos_embed`, (1, prefix + side², width), to the backbone's grid, in place, if it is one."""
    embedding = weights.get("pos_embed")
    if embedding is None or embedding.ndim != 3:  # noqa: PLR2004
        return
    embedding = embedding.float()
    prefix = 0 if backbone.no_embed_class else backbone.num_prefix_tokens
    patches = embedding.shape[1] - prefix
    if patches < 1 or math.isqrt(patches) ** 2 != patches:
        return
    grid = backbone.patch_embed.grid_size
    if math.isqrt(patches) != grid[0]:
        before, after = (f"{side} × {side}" for side in (math.isqrt(patches), grid[0]))
        print(
            f"baseline: the weights are for another input size: position embeddings are resized from {before} patches "
            f"to {after}",
            file=sys.stderr,
        )
    if like_dinov2:
        weights["pos_embed"] = position.resize(embedding[:, :1], embedding[:, 1:], grid[0], DINOV2_OFFSET)
    else:
        weights["pos_embed"] = resample_abs_pos_embed(embedding, list(grid), num_prefix_tokens=prefix)


def _as_timm_loads_them(weights: dict[str, Tensor], name: str, side: int) -> dict[str, Tensor]:
    """Under timm's names and in the backbone's sizes, by the function that timm has for that in the model's module.

    The mask token of pretraining goes, and a classifier that the function finds: a backbone alone is filled.
    """
    with torch.device("meta"):
        backbone: Any = timm.create_model(name, num_classes=0, img_size=side)
    modules = (timm.models.model_entrypoint(name).__module__, type(backbone).__module__)
    known = [getattr(importlib.import_module(module), "checkpoint_filter_fn", None) for module in modules]
    convert: Any = next(filter(None, known), lambda weights, _: weights)
    if convert is vision_transformer.checkpoint_filter_fn:
        convert = partial(convert, adapt_layer_scale=True)  # as timm does for DeiT III; others have no such names
    try:
        found = convert(dict(weights), backbone)
    except Exception:  # whatever another model's weights do to it: what follows names them
        return weights
    own = backbone.state_dict().keys()
    return {
        key: tensor for key, tensor in found.items() if key in own or not key.startswith((*CLASSIFIER, "mask_token"))
    }


def _check(weights: dict[str, Tensor], expected: dict[str, Any], file: Path, of_transformers: bool = False) -> None:
    """Compare weights read from `file` with the tensors that the architecture expects."""
    problems = [f"{name} is missing" for name in expected if name not in weights and not name.endswith(COUNTER)]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    for name, tensor in weights.items():
        if name in expected and tensor.shape != expected[name].shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
        elif not torch.isfinite(tensor.float()).all():
            problems.append(f"{name} holds NaN or infinity")
    if not problems:
        return
    if of_transformers and weights.keys() != expected.keys() and _size(weights) in (_size(expected), _size({})):
        raise VitquantError(
            f"{file} is of transformers' save_pretrained, and not its ViT, DeiT or DINOv2 that model.name is; others "
            "are not read: take model.source: timm, or the file of the model's authors, whose names timm converts (for "
            "CLIP a state_dict of open_clip, for DINOv3 its .pth)"
        )
    normed = "fc_norm.weight"
    differ = {name.rpartition(".")[0] for name in weights.keys() ^ expected.keys()}
    if differ == {"norm", "fc_norm"} and (normed in weights) != (normed in expected):
        pools = ("the mean of its patch tokens (timm's global_pool='avg')", "one token (global_pool='token')")
        theirs, ours = pools if normed in weights else pools[::-1]
        raise VitquantError(
            f"{file} does not fit the model: its weights are trained with pooling of {theirs}, and model.name pools "
            f"{ours}: name a model that pools as the weights do, or fine-tune this one with timm's default pooling"
        )
    columns = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in weights), strict=False))
    prefix = ".".join(parts[0] for parts in columns)
    if prefix and prefix.partition(".")[0] not in {name.partition(".")[0] for name in expected}:
        raise VitquantError(
            f"{file} does not fit the model: all its names begin with {prefix + '.'!r}: save them without that"
        )
    if not set(weights) & set(expected):
        raise VitquantError(
            f"{file} holds no ViT by timm's names, but {', '.join(list(weights)[:3])}, …: take a checkpoint of "
            "model.name"
        )
    ours, theirs = _size(weights), _size(expected)
    sizes = f"it is {ours}, the model {theirs}; " if ours != theirs else ""
    raise VitquantError(
        f"{file} does not fit the model: {sizes}{shown(problems)}: check model.name and the weights file"
    )


def _size(weights: Mapping[str, Tensor]) -> str:
    """Of a ViT, in words."""
    embedding = weights.get("patch_embed.proj.weight")
    numbers = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    return f"{'?' if embedding is None else len(embedding)} wide with {len(numbers)} blocks"
