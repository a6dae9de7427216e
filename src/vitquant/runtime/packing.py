"""A network's tensors as the native code takes them: in whole cache lines, filled up with zeros to whole vectors.

The structures are those of native/*.h. Each array has a multiple of 64 bytes as its address.
"""

import ctypes
import math
from collections.abc import Iterator
from ctypes import c_float, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant.errors import UnsupportedError
from vitquant.runtime.library import Library

Array = NDArray[Any]
LINE = 64  # bytes
GROUP = 8  # inputs that a linear layer takes at a time
VALUE = 2  # third of queries, keys and values
PATCH_LEVELS = 2047  # at most, of the patch embedding's weights, as of the pixels in patches.h


def _structure(*fields: tuple[str, Any]) -> type[ctypes.Structure]:
    return type("Structure", (ctypes.Structure,), {"_fields_": list(fields)})


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


Layer = _structure(*_fields(c_void_p, "packed start scale bias"), *_fields(c_int64, "width outputs"))
Norm = _structure(*_fields(c_void_p, "gain shift"), ("width", c_int64), ("epsilon", c_float))
Patches = _structure(*_fields(c_void_p, "weight scale tokens"), *_fields(c_int64, "channels side size prefix outputs"))
Block = _structure(
    *(("norm1", Norm), ("qkv", Layer), ("query_norm", Norm), ("key_norm", Norm)),
    *(
        ("rotation", c_void_p),
        ("rotation_step", c_int64),
        ("bias", c_void_p),
        ("attention_norm", Norm),
        ("proj", Layer),
    ),
    *(
        ("norm2", Norm),
        ("fc1", Layer),
        ("factor", c_void_p),
        ("shift", c_void_p),
        ("hidden_norm", Norm),
        ("fc2", Layer),
    ),
)
Pool = _structure(
    *_fields(c_void_p, "query value value_bias proj proj_bias"),
    ("norm", Norm),
    *_fields(c_void_p, "fc1 fc1_bias fc2 fc2_bias"),
    *_fields(c_int64, "heads hidden activation"),
)
Network = _structure(
    *(("patches", Patches), ("norm_before", Norm), ("norm_after", Norm), ("norm_pooled", Norm)),
    *_fields(c_void_p, "blocks head_weight head_bias"),
    ("pool", Pool),
    *_fields(
        c_int64, "block_count heads depth filled_depth tokens width classes activation gated pooling skipped averaged"
    ),
)


def addresses(kind: Any) -> Iterator[int]:
    """Where addresses stand in a structure or an array of such, in bytes from its start."""
    if kind is c_void_p:
        yield 0
    elif issubclass(kind, ctypes.Array):
        for index in range(kind._length_):
            yield from (index * ctypes.sizeof(kind._type_) + place for place in addresses(kind._type_))
    elif issubclass(kind, ctypes.Structure):
        for name, own in kind._fields_:
            yield from (getattr(kind, name).offset + place for place in addresses(own))


def up(count: int, step: int) -> int:
    """`count`, or the next multiple of `step`."""
    return -count % step + count


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros in whole cache lines."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    lines: Array = memory[start : start + size].view(dtype).reshape(shape)
    return lines


def sums_of_four(weight: Array) -> Array:
    """What the positive and the negative integers of int8 (N, K) sum to, int16 (2, N, K / 8, 2), K a multiple of 8.

    A group is four inputs whose products are summed in 16 bits: the first two of four and of the next four.
    """
    groups = weight.reshape(len(weight), -1, 2, 2, 2)
    sides = (np.maximum(groups, 0), -np.minimum(groups, 0, dtype=np.int16))
    return np.stack([side.sum(axis=(2, 4), dtype=np.int16) for side in sides])


class Packer:
    """Packs for one library, and keeps what it has packed: the structures hold addresses."""

    def __init__(self, library: Library) -> None:
        self._lanes, self._panel, self._zero_point = library.lanes, library.panel, library.zero_point
        self._most = library.largest_weight_sum
        self.kept: list[Array] = []
        """What has been packed."""

    def inputs(self, width: int) -> int:
        """Of a linear layer with `width` inputs, filled up."""
        return up(width, max(GROUP, self._lanes))

    def outputs(self, width: int) -> int:
        """Of a linear layer with `width` outputs, filled up."""
        return up(width, max(GROUP, self._panel))

    def head(self, depth: int, rotated: bool = False) -> int:
        """Columns of a head's queries, keys or values, filled up: whole, or by halves that turn with each other."""
        return 2 * up(depth // 2, self._lanes) if rotated else up(depth, self._lanes)

    def halves(self, values: Array, rotated: bool = True) -> Array:
        """A head's columns, (…, depth), filled up as `head` says, (…, filled)."""
        parts = values.reshape(*values.shape[:-1], 2 if rotated else 1, -1)
        room = self.head(values.shape[-1], rotated) // parts.shape[-2]
        filled = np.zeros((*parts.shape[:-1], room), values.dtype)
        filled[..., : parts.shape[-1]] = parts
        return filled.reshape(*values.shape[:-1], -1)

    def array(self, values: Array, *shape: int) -> int:
        """The address of a copy of `values`, filled up with zeros to `shape`."""
        packed = aligned(shape, values.dtype)
        packed[tuple(slice(size) for size in values.shape)] = values
        return self._keep(packed)

    def _keep(self, array: Array) -> int:
        self.kept.append(array)
        return array.ctypes.data

    def norm(self, gain: Array, shift: Array, epsilon: float) -> Any:
        """A LayerNorm, float32 (K,) each."""
        width = self.inputs(len(gain))
        return Norm(self.array(gain, width), self.array(shift, width), len(gain), epsilon)

    def linear(self, weight: Array, scale: Array, bias: Array) -> Any:
        """A linear layer: int8 (N, K), and float32 (N,) each.

        Raises:
            UnsupportedError: the integers are too large for this CPU.
        """
        outputs, inputs = self.outputs(len(weight)), self.inputs(weight.shape[1])
        if weight.shape != (outputs, inputs):
            filled = np.zeros((outputs, inputs), np.int8)
            filled[: len(weight), : weight.shape[1]] = weight
            weight = filled
        if self._most and sums_of_four(weight).max() > self._most:
            raise UnsupportedError("made on a CPU with VNNI, which this one lacks: quantize again here")
        packed = aligned((outputs // self._panel, inputs // 4, self._panel), np.uint32)
        packed[...] = weight.view(np.uint32).reshape(-1, self._panel, inputs // 4).transpose(0, 2, 1)
        start = -self._zero_point * weight.sum(axis=1, dtype=np.int32)
        arrays = (self.array(array, outputs) for array in (start, scale, bias))
        return Layer(self._keep(packed), *arrays, inputs, outputs)

    def qkv(self, heads: int, weight: Array, scale: Array, bias: Array, *, to_base_2: bool, rotated: bool) -> Any:
        """The layer of queries, keys and values, by heads.

        Args:
            to_base_2: queries are multiplied such that logits are to base 2, or their norm does that.
            rotated: queries and keys are, so that they lie in halves.
        """
        depth = len(weight) // 3 // heads
        filled = self.head(depth, rotated)
        columns = self.outputs(3 * filled)

        def by_heads(array: Array) -> Array:
            parts = array.reshape(3, heads, depth, -1)
            result = np.zeros((heads, columns, parts.shape[3]), array.dtype)
            for index, part in enumerate(parts):
                own = self.halves(part.swapaxes(1, 2), rotated and index < VALUE).swapaxes(1, 2)
                result[:, index * filled :][:, : own.shape[1]] = own
            return result.reshape(heads * columns, -1)

        base = np.ones(len(scale), np.float32)
        if to_base_2:
            base[: heads * depth] = math.log2(math.e)
        return self.linear(by_heads(weight), by_heads(scale * base)[:, 0], by_heads(bias * base)[:, 0])

    def biases(self, values: Array) -> int:
        """The address of biases of a block's logits, float32 (heads, tokens, tokens); they come to base 2."""
        heads, tokens, _ = values.shape
        return self.array(values * np.float32(math.log2(math.e)), heads, tokens, up(tokens, self._lanes))

    def gated(self, weight: Array, scale: Array, bias: Array) -> Any:
        """fc1 with a gate, whose two halves of outputs are each filled up to what fc2 takes."""
        half = len(weight) // 2

        def filled(array: Array) -> Array:
            parts = np.zeros((2, self.inputs(half), *array.shape[1:]), array.dtype)
            parts[:, :half] = array.reshape(2, half, *array.shape[1:])
            return parts.reshape(-1, *array.shape[1:])

        return self.linear(filled(weight), filled(scale), filled(bias))

    def patches(self, weight: Array, tokens: Array, side: int, prefix: int) -> Any:
        """The patches' embedding.

        Args:
            weight: float32 (width, channels, size, size).
            tokens: float32 (tokens, width), what tokens are beside the patches' products.
            side: of the image, pixels.
            prefix: how many tokens come before the patches.
        """
        width, channels, size, _ = weight.shape
        outputs, inputs = self.outputs(width), channels * size * size
        pairs = up(inputs, 2 * self._lanes) // 2
        levels = min(PATCH_LEVELS, math.isqrt((2**31 - 1) // inputs))
        scale = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), np.finfo(np.float32).tiny * levels) / np.float32(levels)
        numbers = np.zeros((outputs, 2 * pairs), np.int16)
        numbers[:width, :inputs] = np.rint(weight.reshape(width, -1) / scale[:, None])
        packed = aligned((outputs // self._lanes, pairs, self._lanes), np.int32)
        packed[...] = numbers.view(np.int32).reshape(-1, self._lanes, pairs).transpose(0, 2, 1)
        addresses = self._keep(packed), self.array(scale, outputs), self.array(tokens, len(tokens), outputs)
        return Patches(*addresses, channels, side, size, prefix, outputs)
