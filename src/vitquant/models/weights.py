"""A ViT's weights, from the place that `model.source` names, into the model."""

import argparse
import importlib
import math
import pickle
import sys
import zipfile
from collections.abc import Collection, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitquant.errors import VitquantError
from vitquant.models import biases, download, onnx_vit, position, transformers_vit
from vitquant.models.vit import ViTClassifier, create_backbone
from vitquant.params import Dinov2Model, Model, OnnxWheelModel, RandomModel

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.", "encoder.", "student.", "teacher.")  # of known wrappers
COUNTER = ".num_batches_tracked"  # of batch norms, which are no weights
CLASSIFIER = ("head.", "head_dist.")  # what timm's names of it begin with
ATTRIBUTE_DICT = (  # Lightning's, whatever its package's name
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
DINOV2_OFFSET = 0.1  # of its position embedding's interpolation, see vitquant.models.position


HARMLESS: list[Any] = [argparse.Namespace, *((dict, name) for name in ATTRIBUTE_DICT)]
"""What training scripts, timm's and Lightning's, leave beside the tensors: reading it runs no code."""


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
    elif isinstance(params, OnnxWheelModel):
        weights = onnx_vit.state_dict(file, grid=backbone.patch_embed.grid_size[0])
    else:
        weights, classifier = parts(read(file), backbone.state_dict().keys())
        if isinstance(backbone, VisionTransformer):
            _resize_position_embedding(weights, backbone, like_dinov2=isinstance(params, Dinov2Model))
        else:
            weights = biases.join_weights(_as_timm_loads_them(weights, params.name, model.image_size))
    _check(weights, backbone.state_dict(), file)
    backbone.load_state_dict(weights)
    return classifier


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a checkpoint of torch.save, without running code from it.

    A checkpoint holds them at its top or under `model` or `state_dict`. They come in the type that they are stored in,
    so that they take no more memory than the file says.

    Raises:
        VitquantError: missing, broken, only readable by running code from it, larger unpacked than packed, without
            named tensors, or with tensors that are no plain floating-point ones.
    """
    if not file.is_file():
        raise VitquantError(f"{file} is missing: run `dvc repro -f fetch`")
    content = _read_safetensors(file) if file.suffix.lower() == ".safetensors" else _read_checkpoint(file)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    items = content.items() if isinstance(content, dict) else ()
    tensors = {
        name: value
        for name, value in items
        if isinstance(name, str) and isinstance(value, Tensor) and not name.endswith(COUNTER)
    }
    if not tensors:
        found = f"the keys {', '.join(map(_key, list(content)[:5]))}" if items else f"a {type(content).__name__}"
        raise VitquantError(f"{file} holds no named tensors but {found}: save the model's state_dict() and use that")
    odd = [f"{name} is {kind}" for name, kind in ((name, _oddity(tensor)) for name, tensor in tensors.items()) if kind]
    if odd:
        raise VitquantError(
            f"{file}: {_shown(odd)}: weights must be plain tensors of FP64, FP32, FP16 or BF16: save those of the "
            "floating-point model"
        )
    return tensors


def _key(key: object) -> str:
    """A key as a message shows it: a text or the type, since what others nest into a key can have no end."""
    return key[:50] if isinstance(key, str) else f"of type {type(key).__name__}"


def _oddity(tensor: Tensor) -> str:
    """What keeps a tensor from being read as floating-point weights; empty where nothing does."""
    if tensor.is_meta:
        return "without values, on the meta device"
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        return "sparse" if tensor.layout != torch.strided else str(tensor.dtype).removeprefix("torch.")
    if tensor.nbytes > tensor.untyped_storage().nbytes():  # a stride of 0: a copy could have terabytes
        return f"of {tensor.numel()} values, of which the file holds fewer"
    return ""


def _shown(problems: list[str]) -> str:
    return "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")  # noqa: PLR2004


def _read_safetensors(file: Path) -> Any:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise VitquantError(f"{file} is not a readable safetensors file ({error}): {_MEND}") from None


def _read_checkpoint(file: Path) -> Any:
    try:
        _check_unpacked_size(file)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, VitquantError):
        raise
    except Exception as error:  # a broken pickle can raise any
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise VitquantError(
                f"{file} holds more than tensors and would have to run code to load; refusing it: convert its "
                "state_dict() to safetensors and use that"
            ) from None
        raise VitquantError(f"{file} is not a readable checkpoint of torch.save: {_MEND}") from None


def _check_unpacked_size(file: Path) -> None:
    """See that a zip, as torch.save writes it, stores what it holds; torch.load would unpack any size."""
    with file.open("rb") as start:
        if start.read(2) != b"PK":  # of before PyTorch 1.6: a pickle, and the bytes of the tensors
            return
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > file.stat().st_size:
        raise VitquantError(
            f"{file} would unpack to {size} bytes; refusing it: checkpoints are not compressed; save it by torch.save"
        )


_MEND = "it is broken or of another format; check it, then run `dvc repro -f fetch`"


def parts(tensors: dict[str, Tensor], own: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Backbone and classifier under timm's names, without prefixes that all share and pretraining's mask token.

    Args:
        own: names that the backbone has: some keep a norm below `head.`.
    """
    tensors = transformers_vit.under_timms_names(tensors)
    classifier: dict[str, Tensor] = {}
    prefix: str | None = ""
    while prefix is not None:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        classifier |= {
            name: tensor for name, tensor in tensors.items() if name.startswith(CLASSIFIER) and name not in own
        }
        tensors = {name: tensor for name, tensor in tensors.items() if name != "mask_token" and name not in classifier}
        prefix = next(
            (known for known in PREFIXES if tensors and all(name.startswith(known) for name in tensors)), None
        )
    return tensors, classifier


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
    """Under timm's names and in the backbone's sizes: by the function that timm has for that in the model's module."""
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0, img_size=side)
    convert = getattr(importlib.import_module(type(backbone).__module__), "checkpoint_filter_fn", None)
    try:
        return weights if convert is None else dict(convert(weights, backbone))
    except (KeyError, RuntimeError, ValueError, AttributeError):  # of another model's weights: what follows names them
        return weights


def _check(weights: dict[str, Tensor], expected: dict[str, Any], file: Path) -> None:
    """Compare weights read from `file` with the tensors that the architecture expects."""
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    for name, tensor in weights.items():
        if name in expected and tensor.shape != expected[name].shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
        elif not torch.isfinite(tensor.float()).all():
            problems.append(f"{name} holds NaN or infinity")
    if not problems:
        return
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
        f"{file} does not fit the model: {sizes}{_shown(problems)}: check model.name and the weights file"
    )


def _size(weights: Mapping[str, Tensor]) -> str:
    """Of a ViT, in words."""
    embedding = weights.get("patch_embed.proj.weight")
    numbers = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    return f"{'?' if embedding is None else len(embedding)} wide with {len(numbers)} blocks"
