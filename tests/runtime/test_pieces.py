"""Each part of the native code against float64, on CPUs with and without VNNI."""

import ctypes
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vitquant.runtime.library import Library
from vitquant.runtime.packing import Packer, aligned, sums_of_four

Array = NDArray[Any]
EXP2_ERROR = 3e-6  # relative, of the polynomial
GELU_ERROR = 2.1e-4
HEADS = [
    (17, 2, 32),
    (50, 3, 64),
    (33, 2, 80),
    (40, 2, 128),
    (33, 2, 72),
    (16, 1, 104),
    (6, 4, 2),
    (5, 3, 7),
    (1, 1, 48),
]


class Native:
    """pieces.cpp, and what it takes, packed for it."""

    def __init__(self, pieces: ctypes.CDLL) -> None:
        self.library = Library()
        self.pack = Packer(self.library)
        self.zero_point, self.levels = self.library.zero_point, self.library.zero_point - 1
        self._pieces = pieces

    def call(self, name: str, *arguments: Any) -> int:
        function = self._pieces[name]
        function.restype = ctypes.c_int64
        return function(*(self._argument(argument) for argument in arguments))

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, np.ndarray):
            return ctypes.c_void_p(argument.ctypes.data)
        return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.byref(argument)

    def of_numbers(self, name: str, x: Array) -> Array:
        filled, out = aligned((2, len(x) + -len(x) % 16), np.float32)
        filled[: len(x)] = x
        self.call(name, filled, len(filled), out)
        return out[: len(x)]

    def rows(self, values: Array, width: int) -> Array:
        """Quantized rows, filled up."""
        filled = aligned((len(values), width), np.uint8)
        filled[:, : values.shape[1]] = values
        return filled

    def linear(self, values: Array, scale: Array, *layer: Array) -> Array:
        """A layer's results, (tokens, N)."""
        packed = self.pack.linear(*layer)
        out = aligned((len(values), packed.outputs), np.float32)
        self.call("linear_layer", packed, self.rows(values, packed.width), scale, len(values) - 1, out)
        return out[1:, : len(layer[0])]

    def attention(self, values: Array, scale: Array, layer: list[Array], heads: int, parts: int = 1) -> Array:
        """Of the layer's results, queries scaled: (tokens, heads × depth)."""
        packed, depth = self.pack.qkv(heads, *layer, to_base_2=True, rotated=False), len(layer[0]) // 3 // heads
        filled = self.pack.head(depth)
        out = aligned((len(values) - 1, heads, filled), np.float32)
        rows = self.rows(values, packed.width)
        self.call("attention", packed, heads, filled, rows, scale, len(values) - 1, parts, out)
        assert not out[:, :, depth:].any()
        return out[:, :, :depth].reshape(len(out), -1)


@pytest.fixture(scope="module")
def native(pieces: ctypes.CDLL) -> Native:
    return Native(pieces)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer_and_rows(
    native: Native, tokens: int, width: int, outputs: int, factor: Array | float = 1.0
) -> tuple[list[Array], Array, Array, Array]:
    """A linear layer, its input and that one's scales, and what it gives, float64 (tokens, outputs), times `factor`."""
    generator = np.random.default_rng(1)
    values = generator.integers(1, 2 * native.zero_point, (tokens + 1, width)).astype(np.uint8)
    weight = generator.integers(-47, 48, (outputs, width)).astype(np.int8)
    scale = (factor * np.exp(random(outputs, seed=2) / 3) / 10000).astype(np.float32)
    bias = (factor * random(outputs, seed=3)).astype(np.float32)
    row_scale = np.exp(random(tokens + 1, seed=4) / 2)
    row_scale[0] = row_scale[1] / 100  # of the class token's low part
    result = (values.astype(int) - native.zero_point) @ weight.T.astype(int) * scale.astype(float) * row_scale[:, None]
    result[1] += result[0]
    return [weight, scale, bias], values, row_scale, result[1:] + bias


def test_exponential(native: Native) -> None:
    x = np.linspace(-126, 8, 1_000_001).astype(np.float32)
    error = native.of_numbers("exponentials", x) / np.exp2(x.astype(float)) - 1
    assert np.abs(error).max() < EXP2_ERROR


def test_gelu(native: Native) -> None:
    x = np.linspace(-12, 12, 480_001).astype(np.float32)
    exact = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in map(float, x)]
    assert np.abs(native.of_numbers("gelus", x) - exact).max() < GELU_ERROR


@pytest.mark.parametrize(("tokens", "width"), [(17, 64), (5, 48), (33, 72), (1, 16), (3, 1536)])
def test_norm_and_quantization(native: Native, tokens: int, width: int) -> None:
    x, gain, shift = 3 + random(tokens, width), random(width, seed=1), random(width, seed=2)
    filled = native.pack.inputs(width)
    rows = aligned((tokens, filled), np.float32)
    rows[:, :width] = x
    values, scale = aligned((tokens + 1, filled), np.uint8), np.zeros(tokens + 1, np.float32)
    native.call("normalize_quantize", native.pack.norm(gain, shift, 1e-3), rows, tokens, filled, values, scale)
    wide = x.astype(float)
    deviation = np.sqrt(wide.var(axis=1, keepdims=True) + 1e-3)
    expected = (wide - wide.mean(axis=1, keepdims=True)) / deviation * gain + shift
    whole = values.astype(int) - native.zero_point
    assert np.abs(whole).max() <= native.levels
    assert not whole[:, width:].any()  # zeros stay zeros
    assert np.allclose(scale[1:], np.abs(expected).max(axis=1) / native.levels, rtol=1e-5)
    given = (whole * scale[:, None])[:, :width]
    assert (np.abs(given[2:] - expected[1:]) <= 0.501 * scale[2:, None]).all()
    assert np.isclose(scale[0], scale[1] / (2 * native.levels))
    assert (np.abs(given[0] + given[1] - expected[0]) <= 0.51 * scale[0] + 1e-5 * np.abs(expected[0]).max()).all()


@pytest.mark.parametrize(
    ("tokens", "width", "outputs"),
    [(1, 8, 8), (7, 24, 16), (11, 36, 21), (12, 64, 40), (30, 72, 100), (700, 1536, 16)],
)
def test_linear_layers_are_exact(native: Native, tokens: int, width: int, outputs: int) -> None:
    layer, values, row_scale, _ = layer_and_rows(native, tokens, width, outputs)
    most = native.library.largest_weight_sum
    full = min((most or 508) // 4, 127)
    layer[0][0], layer[0][1], values[-1] = full, -full, 2 * native.zero_point - 1  # as much of one sign as may be
    row_scale[:], row_scale[0] = 1, 0
    exact = (values.astype(int) - native.zero_point) @ layer[0].T.astype(int)
    result = native.linear(values, row_scale, layer[0], layer[1], np.zeros_like(layer[2]))
    assert np.allclose(result, exact[1:] * layer[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("tokens", range(1, 30))
def test_linear_layers_scale_each_row_and_column_and_add_the_class_token_s_parts(native: Native, tokens: int) -> None:
    """In tiles of all heights."""
    layer, values, row_scale, expected = layer_and_rows(native, tokens, 40, 48)
    result = native.linear(values, row_scale, *layer)
    assert np.allclose(result, expected, rtol=1e-5, atol=1e-5)
    one_by_one = [native.linear(values[:2], row_scale[:2], *layer)]
    one_by_one += [
        native.linear(values[[0, row]], row_scale[[0, row]] * np.float32([0, 1]), *layer)
        for row in range(2, tokens + 1)
    ]
    assert np.allclose(result, np.concatenate(one_by_one), rtol=1e-5, atol=1e-6)


def test_sums_of_four() -> None:
    weight = np.zeros((2, 16), np.int8)
    weight[0, [0, 1, 4, 5]], weight[1, [10, 15]] = [1, -2, 3, 4], [-128, -100]
    sums = sums_of_four(weight)
    assert sums.shape == (2, 2, 2, 2)
    assert sums[:, 0, 0, 0].tolist() == [8, 2]
    assert sums[:, 1, 1, 1].tolist() == [0, 228]
    assert sums.sum() == 8 + 2 + 228


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attended(result: Array, heads: int) -> Array:
    """Exact attention over a layer's results, (tokens, 3 × heads × depth)."""
    query, key, value = result.reshape(len(result), 3, heads, -1).transpose(1, 2, 0, 3)
    return (softmax(query @ key.transpose(0, 2, 1)) @ value).transpose(1, 0, 2).reshape(len(result), -1)


@pytest.mark.parametrize(("tokens", "heads", "depth"), HEADS)
def test_attention(native: Native, tokens: int, heads: int, depth: int) -> None:
    scaled = np.repeat([depth**-0.5, 1.0, 1.0], heads * depth)
    *given, result = layer_and_rows(native, tokens, 24, 3 * heads * depth, scaled)
    layer, values, row_scale = given
    expected = attended(result, heads)
    error = np.abs(native.attention(values, row_scale, layer, heads) - expected)
    assert error.max() < 2e-3 * np.abs(expected).max()  # values have 11 bits, queries and keys 12


@pytest.mark.parametrize("parts", [2, 3, 20])
def test_parts_of_a_head_give_what_the_whole_gives(native: Native, parts: int) -> None:
    layer, values, row_scale, _ = layer_and_rows(native, 45, 24, 3 * 2 * 64)
    whole, split = (native.attention(values, row_scale, layer, 2, count) for count in (1, parts))
    assert np.array_equal(whole, split)


@pytest.mark.parametrize("tokens", [197, 257, 1025, 1370])
@pytest.mark.parametrize("sinks", [1, 4])
@pytest.mark.parametrize("gap", [0.0, 4.0, 6.0, 7.5, 7.7, 9.0, 12.0])
def test_attention_sinks(native: Native, tokens: int, sinks: int, gap: float) -> None:
    """Keys whose logits are `gap` above all others', and whose values are nothing: the others' output is left."""
    depth = 64
    query, key, value = np.zeros((3, tokens, depth), np.float32)
    query[:, 0], key[5 : 5 + sinks, 0] = 2.0, gap / 2
    value += 1 + 0.2 * random(depth) + 0.1 * random(tokens, depth, seed=1)
    value[5 : 5 + sinks] = 0
    rows = np.concatenate([query, key, value], axis=1)
    scale = np.abs(rows).max(axis=1) / native.levels
    whole = np.rint(rows / scale[:, None])
    expected = attended(whole * scale[:, None].astype(float), 1)
    values = (np.concatenate([np.zeros_like(whole[:1]), whole]) + native.zero_point).astype(np.uint8)
    layer = [np.eye(3 * depth, dtype=np.int8), np.ones(3 * depth, np.float32), np.zeros(3 * depth, np.float32)]
    result = native.attention(values, np.concatenate([scale[:1], scale]), layer, 1)
    assert np.abs(result - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize(("tokens", "depth"), [(3, 4096), (8200, 16)])
def test_sums_of_attention_do_not_overflow(native: Native, tokens: int, depth: int) -> None:
    """The largest integers of one sign, over deep heads and over long images."""
    values = np.full((tokens + 1, 8), native.zero_point, np.uint8)
    values[:, 0] += 1
    weight = np.zeros((3 * depth, 8), np.int8)
    weight[:, 0] = 1
    scale = np.repeat([1 / depth, 1.0, 1.0], depth).astype(np.float32)
    row_scale = np.ones(tokens + 1, np.float32)
    row_scale[0] = 0
    result = native.attention(values, row_scale, [weight, scale, np.zeros_like(scale)], 1)
    assert np.allclose(result, 1, atol=1e-2)


@pytest.mark.parametrize(
    ("heads", "threads", "parts"), [(6, 1, 1), (6, 2, 1), (6, 3, 1), (6, 4, 2), (6, 12, 2), (3, 6, 2), (1, 2, 2)]
)
def test_heads_are_split_where_threads_would_wait(native: Native, heads: int, threads: int, parts: int) -> None:
    assert native.call("parts_of_heads_for", heads, threads) == parts
