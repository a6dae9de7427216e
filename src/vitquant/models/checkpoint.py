"""The tensors of a person's file: safetensors, or what torch.save wrote, of which no code is run."""

import argparse
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitquant.errors import VitquantError, printable
from vitquant.models import layouts

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
COUNTER = ".num_batches_tracked"  # of batch norms
INTEGERS = (torch.int64, torch.int32, torch.bool)  # of indices and counters; where they are weights' they are refused
ATTRIBUTE_DICT = (  # Lightning's, whatever its package's name
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


HARMLESS: list[Any] = [argparse.Namespace, *((dict, name) for name in ATTRIBUTE_DICT)]
"""What training scripts, timm's and Lightning's, leave beside the tensors: reading it runs no code."""


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a checkpoint of torch.save, without running code from it.

    A checkpoint holds them at its top or in an entry that `layouts.entry` knows. They come in the type that they are
    stored in, so that they take no more memory than the file says. Integers that are no layer's weight or bias, such as
    indices and counts of steps, are left out.

    Raises:
        VitquantError: missing, broken, only readable by running code from it, larger unpacked than packed, without
            named tensors, or with tensors that are no plain floating-point ones.
    """
    if not file.is_file():
        raise VitquantError(f"{file} is missing: run `dvc repro -f fetch`")
    content = _read_safetensors(file) if file.suffix.lower() == ".safetensors" else _read_checkpoint(file)
    content = layouts.entry(content, file)
    items = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    integers = [name for name, value in tensors.items() if _is_no_weight(name, value)]
    tensors = {name: value for name, value in tensors.items() if name not in set(integers)}
    said = [name for name in integers if not name.endswith(COUNTER)]
    if said:
        print(f"weights: {file}: left out, as integers: {printable(layouts.shown(said, ', '))}", file=sys.stderr)
    if not tensors:
        found = f"the keys {', '.join(map(_key, list(content)[:5]))}" if items else f"a {type(content).__name__}"
        raise VitquantError(f"{file} holds no named tensors but {found}: save the model's state_dict() and use that")
    odd = [f"{name} is {kind}" for name, kind in ((name, _oddity(tensor)) for name, tensor in tensors.items()) if kind]
    if odd:
        raise VitquantError(
            f"{file}: {layouts.shown(odd)}: weights must be plain tensors of FP64, FP32, FP16 or BF16: save those of "
            "the floating-point model"
        )
    return tensors


def _key(key: object) -> str:
    """A key as a message shows it: a text or the type, since what others nest into a key can have no end."""
    return key[:50] if isinstance(key, str) else f"of type {type(key).__name__}"


def _is_no_weight(name: str, tensor: Tensor) -> bool:
    return tensor.dtype in INTEGERS and not name.endswith(("weight", "bias"))


def _oddity(tensor: Tensor) -> str:
    """What keeps a tensor from being read as floating-point weights; empty where nothing does."""
    if tensor.is_meta:
        return "without values, on the meta device"
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        return "sparse" if tensor.layout != torch.strided else str(tensor.dtype).removeprefix("torch.")
    if tensor.nbytes > tensor.untyped_storage().nbytes():  # a stride of 0: a copy could have terabytes
        return f"of {tensor.numel()} values, of which the file holds fewer"
    return ""


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
