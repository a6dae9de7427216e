"""A ViT in INT8: what an artifact of vitquant-int8 says of it, and its tensors, packed to run in one native call."""

import ctypes
import dataclasses
from collections.abc import Mapping, MutableMapping
from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant import files
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.runtime import packing
from vitquant.runtime.library import Library
from vitquant.runtime.packing import Packer

FILE = "network.json"  # in an artifact, beside its tensors
LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
SHOWN = 5  # problems of an artifact
MEND = "make it again with `dvc repro`"


@dataclass(frozen=True)
class Description:
    """All that the tensors' shapes follow from, and what they do not tell: the content of network.json."""

    side: int
    """Of the image, pixels."""
    channels: int
    patch: int
    """Side of a patch, pixels."""
    width: int
    """Of a token."""
    blocks: int
    heads: int
    depth: int
    """Of a head."""
    hidden: int
    """Width between fc1 and fc2."""
    prefix: int
    """Tokens before the patches': the class token, and registers."""
    classes: int
    epsilon: float
    """Of every LayerNorm."""
    norm_before: bool
    """Whether there is a LayerNorm before all blocks."""

    @property
    def tokens(self) -> int:
        """Of an image."""
        return self.prefix + (self.side // self.patch) ** 2

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Of each tensor the type and the shape."""
        width, attended = self.width, self.heads * self.depth
        floats: dict[str, tuple[int, ...]] = {
            "backbone.patch_embed.proj.weight": (width, self.channels, self.patch, self.patch),
            "backbone.tokens": (1, self.tokens, width),
            "head.weight": (self.classes, 2 * width),
            "head.bias": (self.classes,),
        }
        norms = ["backbone.norm", *(["backbone.norm_pre"] if self.norm_before else [])]
        integers = {}
        for block in (f"backbone.blocks.{index}" for index in range(self.blocks)):
            norms += [f"{block}.norm1", f"{block}.norm2"]
            floats |= {f"{block}.mlp.centre": (self.hidden,), f"{block}.mlp.inverse": (self.hidden,)}
            layers = ((3 * attended, width), (width, attended), (self.hidden, width), (width, self.hidden))
            for name, shape in zip(LINEAR, layers, strict=True):
                integers[f"{block}.{name}.weight"] = shape
                floats |= {f"{block}.{name}.scale": shape[:1], f"{block}.{name}.bias": shape[:1]}
        floats |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
        return {name: ("float32", shape) for name, shape in floats.items()} | {
            name: ("int8", shape) for name, shape in integers.items()
        }


def write(directory: Path, description: Description) -> None:
    """Write network.json."""
    files.write_json(directory / FILE, dataclasses.asdict(description))


def read(directory: Path) -> Description:
    """Read network.json.

    Raises:
        VitquantError: it is missing, as in artifacts of before, or is not one.
    """
    file = directory / FILE
    if not file.is_file():
        raise VitquantError(f"{file} is missing: quantize again with `dvc repro`")
    content = files.read_json(file)
    fields = {field.name: field.type for field in dataclasses.fields(Description)}
    if not isinstance(content, dict) or content.keys() != fields.keys():
        raise VitquantError(f"{file} does not hold {', '.join(fields)}, and these alone: {MEND}")
    for name, kind in fields.items():
        value = content[name]
        if type(value) is not kind or (kind is not bool and not 0 < value < 2**31):
            raise VitquantError(f"{file}: {name} is {str(value)[:50]}, not a positive number or a truth value: {MEND}")
    description = Description(**content)
    if description.side % description.patch:
        raise VitquantError(f"{file}: {description.side} pixels do not divide into patches: {MEND}")
    return description


class Network:
    """A packed network.

    Args:
        description: of the network.
        tensors: NumPy arrays by name; each is taken out once it is packed, so that none lies in memory twice.
        name: of what they were read from, for messages.
        architecture: likewise.
        library: that will run it; this CPU's, if not said.

    Raises:
        VitquantError: a tensor is not of the name, shape or type that the description says.
        UnsupportedError: there is no native code for this CPU, or the integers were made for another one.
    """

    def __init__(
        self,
        description: Description,
        tensors: MutableMapping[str, Any],
        name: str,
        architecture: str,
        library: Library | None = None,
    ) -> None:
        self.description = description
        _check(description.shapes(), tensors, f"{name} does not fit {architecture}")
        self._library = library or Library()
        self._packer = Packer(self._library)
        try:
            self._network = self._pack(tensors)
        except UnsupportedError as reason:
            raise UnsupportedError(f"{name} was {reason}") from None

    def _pack(self, tensors: MutableMapping[str, Any]) -> Any:
        its, pack = self.description, self._packer

        def norm(path: str) -> Any:
            return pack.norm(tensors.pop(f"{path}.weight"), tensors.pop(f"{path}.bias"), its.epsilon)

        def block(path: str) -> Any:
            qkv, proj, fc1, fc2 = (
                [tensors.pop(f"{path}.{name}.{part}") for part in ("weight", "scale", "bias")] for name in LINEAR
            )
            centre, inverse = (tensors.pop(f"{path}.mlp.{part}") for part in ("centre", "inverse"))
            return packing.Block(
                *(norm(f"{path}.norm1"), pack.qkv(its.heads, *qkv), pack.linear(*proj)),
                *(norm(f"{path}.norm2"), pack.linear(*fc1)),
                *(pack.array(array, pack.outputs(its.hidden)) for array in (inverse, -centre * inverse)),
                pack.linear(*fc2),
            )

        patches = pack.patches(
            tensors.pop("backbone.patch_embed.proj.weight"), tensors.pop("backbone.tokens")[0], its.side, its.prefix
        )
        before = norm("backbone.norm_pre") if its.norm_before else packing.Norm()
        blocks = (packing.Block * its.blocks)(*(block(f"backbone.blocks.{index}") for index in range(its.blocks)))
        self._blocks = blocks
        head = tensors.pop("head.weight").reshape(its.classes, 2, its.width)
        return packing.Network(
            *(patches, before, norm("backbone.norm"), ctypes.addressof(blocks)),
            pack.array(head, its.classes, 2, pack.outputs(its.width)),
            pack.array(tensors.pop("head.bias"), its.classes),
            *(its.blocks, its.heads, its.depth, its.tokens, its.width, its.classes),
        )

    def forward(self, pixels: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
        """Images to logits and, beside them, the class token after the last norm; on any number of threads the same.

        Args:
            pixels: normalised, float32 (N, channels, side, side).
            threads: how many to run on.

        Returns:
            float32 (N, classes + width).

        Raises:
            VitquantError: images of another shape or type.
        """
        its = self.description
        if pixels.dtype != np.float32 or pixels.shape[1:] != (its.channels, its.side, its.side):
            wanted = f"(N, {its.channels}, {its.side}, {its.side})"
            raise VitquantError(f"images must be float32 of shape {wanted}, not {pixels.dtype} {pixels.shape}")
        pixels = np.ascontiguousarray(pixels)
        outputs = np.empty((len(pixels), its.classes + its.width), np.float32)
        addresses = (c_void_p(array.ctypes.data) for array in (pixels, outputs))
        self._library.forward(ctypes.byref(self._network), *addresses, c_int64(len(pixels)), c_int(threads))
        return outputs

    def image(self) -> tuple[NDArray[np.uint8], list[int]]:
        """All of it in one piece of memory, and where in it addresses stand, in bytes; they are from its start on.

        It begins with the structure that the native code takes.
        """
        structures = [self._network, self._blocks]
        pieces = [np.frombuffer(each, np.uint8) for each in structures]
        pieces += [array.reshape(-1).view(np.uint8) for array in self._packer.kept]
        ends = np.cumsum([packing.up(piece.size, packing.LINE) for piece in pieces])
        starts, whole = [0, *ends[:-1].tolist()], np.zeros(ends[-1], np.uint8)
        moved = {piece.ctypes.data: start for piece, start in zip(pieces, starts, strict=True)}
        for piece, start in zip(pieces, starts, strict=True):
            whole[start : start + piece.size] = piece
        places = [
            start + place
            for each, start in zip(structures, starts, strict=False)
            for place in packing.addresses(type(each))
        ]
        words = whole.view(np.uint64)
        places = [place for place in places if words[place // 8]]  # not those of what there is none of
        for place in places:
            words[place // 8] = moved[int(words[place // 8])]
        return whole, places


def _check(shapes: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Mapping[str, Any], what: str) -> None:
    """See that tensors are those expected: what follows hands on their addresses."""
    problems = [f"{name} is missing" for name in shapes if name not in tensors]
    for name, tensor in tensors.items():
        if name not in shapes:
            problems.append(f"{name} is unknown")
        elif (str(tensor.dtype), tensor.shape) != shapes[name]:
            expected = " ".join(map(str, shapes[name]))
            problems.append(f"{name} is {tensor.dtype} {tensor.shape}, expected {expected}")
    if problems:
        shown = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        raise VitquantError(f"{what}: {shown}: {MEND}")
