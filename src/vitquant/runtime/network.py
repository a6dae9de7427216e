"""A ViT in INT8: an artifact's tensors, packed to run in one native call."""

import ctypes
from collections.abc import Mapping, MutableMapping
from ctypes import c_int, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant.errors import UnsupportedError, VitquantError
from vitquant.runtime import packing
from vitquant.runtime.description import ACTIVATIONS, LINEAR, MEND, POOLINGS, Description
from vitquant.runtime.library import Library
from vitquant.runtime.packing import Packer
from vitquant.runtime.run import MOST_THREADS

SHOWN = 5  # problems of an artifact
BASE_2 = np.float32(np.log2(np.e))  # what logits are multiplied by, so that softmax takes powers of 2


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
        self._blocks = (packing.Block * its.blocks)()  # by index: what is made must not move
        rotations, distances = self._rotations(tensors), self._distances(tensors)
        for index in range(its.blocks):
            self._blocks[index] = self._block(tensors, f"backbone.blocks.{index}", rotations[index], distances)
        patches = pack.patches(
            tensors.pop("backbone.patch_embed.proj.weight"), tensors.pop("backbone.tokens")[0], its.side, its.prefix
        )
        head = tensors.pop("head.weight").reshape(its.classes, its.features // its.width, its.width)
        return packing.Network(
            patches,
            self._norm(tensors, "backbone.norm_pre", its.norm_before),
            self._norm(tensors, "backbone.norm", its.norm_after),
            self._norm(tensors, "backbone.fc_norm", its.norm_pooled),
            ctypes.addressof(self._blocks),
            pack.array(head, *head.shape[:2], pack.outputs(its.width)),
            pack.array(tensors.pop("head.bias"), its.classes),
            self._pool(tensors),
            *(its.blocks, its.heads, its.depth, pack.head(its.depth, bool(its.rotations)), its.tokens, its.width),
            *(its.classes, ACTIVATIONS.index(its.activation), its.gated, POOLINGS.index(its.pooling)),
            *(its.first_pooled, its.pooled),
        )

    def _norm(self, tensors: MutableMapping[str, Any], path: str, is_there: bool = True) -> Any:
        if not is_there:
            return packing.Norm()
        return self._packer.norm(tensors.pop(f"{path}.weight"), tensors.pop(f"{path}.bias"), self.description.epsilon)

    def _head_norm(self, tensors: MutableMapping[str, Any], path: str, factor: np.float32) -> Any:
        """Of a head's queries or keys, times a factor."""
        its, pack = self.description, self._packer
        if not its.norm_heads:
            return packing.Norm()
        parts = [
            pack.halves(factor * tensors.pop(f"{path}.{part}"), bool(its.rotations)) for part in ("weight", "bias")
        ]
        return packing.Norm(*(pack.array(part, len(part)) for part in parts), its.depth, its.epsilon)

    def _rotations(self, tensors: MutableMapping[str, Any]) -> list[tuple[int | None, int]]:
        """Of each block the address of its rotations, and the step from head to head."""
        its, pack = self.description, self._packer
        if not its.rotations:
            return [(None, 0)] * its.blocks
        tables = tensors.pop("backbone.rotation").reshape(its.rotations, its.patches, its.depth)
        filled = pack.halves(tables)
        if its.rotations == 1:
            return [(pack.array(filled, *filled.shape), 0)] * its.blocks
        blocks = np.split(filled, its.blocks)
        return [(pack.array(own, *own.shape), its.patches * filled.shape[2]) for own in blocks]

    def _distances(self, tensors: MutableMapping[str, Any]) -> NDArray[np.int32] | None:
        """For each two tokens the row of the tables of biases, int32 (tokens, tokens)."""
        if not self.description.distances:
            return None
        found: NDArray[np.int32] = tensors.pop("backbone.distances")
        if found.min() < 0 or found.max() >= self.description.distances:
            raise VitquantError(f"backbone.distances lead beyond the tables of biases: {MEND}")
        return found

    def _block(
        self,
        tensors: MutableMapping[str, Any],
        path: str,
        rotation: tuple[int | None, int],
        distances: NDArray[np.int32] | None,
    ) -> Any:
        its, pack = self.description, self._packer
        bias = None
        if distances is not None:
            bias = pack.biases(tensors.pop(f"{path}.attn.bias")[distances].transpose(2, 0, 1))
        qkv, proj, fc1, fc2 = (
            [tensors.pop(f"{path}.{name}.{part}") for part in ("weight", "scale", "bias")] for name in LINEAR
        )
        centre, inverse = (tensors.pop(f"{path}.mlp.{part}") for part in ("centre", "inverse"))
        return packing.Block(
            self._norm(tensors, f"{path}.norm1"),
            pack.qkv(its.heads, *qkv, to_base_2=not its.norm_heads, rotated=bool(its.rotations)),
            self._head_norm(tensors, f"{path}.attn.q_norm", BASE_2),
            self._head_norm(tensors, f"{path}.attn.k_norm", np.float32(1)),
            *(*rotation, bias),
            self._norm(tensors, f"{path}.attn.norm", its.norm_attention),
            pack.linear(*proj),
            self._norm(tensors, f"{path}.norm2"),
            (pack.gated if its.gated else pack.linear)(*fc1),
            *(pack.array(array, pack.outputs(its.hidden)) for array in (inverse, -centre * inverse)),
            self._norm(tensors, f"{path}.mlp.norm", its.norm_hidden),
            pack.linear(*fc2),
        )

    def _pool(self, tensors: MutableMapping[str, Any]) -> Any:
        its, pack = self.description, self._packer
        if its.pooling != "attention":
            return packing.Pool()
        stride, hidden = pack.outputs(its.width), packing.up(its.pool_hidden, pack.outputs(1))

        def dense(name: str, rows: int, columns: int) -> tuple[int | None, int | None]:
            if f"pool.{name}.weight" not in tensors:
                return None, None
            weight, bias = (tensors.pop(f"pool.{name}.{part}") for part in ("weight", "bias"))
            return pack.array(weight, rows, columns), pack.array(bias, rows)

        return packing.Pool(
            pack.array(BASE_2 * tensors.pop("pool.query"), its.pool_heads, stride),
            *(*dense("value", its.width, stride), *dense("proj", its.width, stride)),
            self._norm(tensors, "pool.norm", its.pool_hidden > 0),
            *(*dense("fc1", hidden, stride), *dense("fc2", its.width, hidden)),
            *(its.pool_heads, hidden, ACTIVATIONS.index(its.pool_activation)),
        )

    def forward(self, pixels: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
        """Images to logits and, beside them, what the head reads first; on any number of threads the same.

        Args:
            pixels: normalised, float32 (N, channels, side, side).
            threads: how many to run on, from 1 to MOST_THREADS.

        Returns:
            float32 (N, classes + width).

        Raises:
            VitquantError: images of another shape or type, or another number of threads.
        """
        its = self.description
        check_threads(threads)
        found = (pixels.dtype, pixels.shape) if isinstance(pixels, np.ndarray) else (type(pixels).__name__, ())
        if found[0] != np.float32 or found[1][1:] != (its.channels, its.side, its.side):
            wanted = f"(N, {its.channels}, {its.side}, {its.side})"
            raise VitquantError(f"images must be an array of float32 of shape {wanted}, not {found[0]} {found[1]}")
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


def check_threads(threads: int) -> None:
    """See that a call can run on so many threads: libgomp ends a process that asks for more than the system gives.

    Raises:
        VitquantError: it cannot.
    """
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise VitquantError(f"threads must be a whole number from 1 to {MOST_THREADS}, not {threads!r}")


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
