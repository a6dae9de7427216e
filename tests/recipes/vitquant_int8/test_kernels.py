"""Each kernel against PyTorch in floating point, for CPUs with and without VNNI, and the cache that they lie in."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitquant.errors import UnsupportedError, VitquantError
from vitquant.quantization.rounding import sums_of_four
from vitquant.recipes.vitquant_int8 import kernels as int8_kernels
from vitquant.recipes.vitquant_int8.kernels import Kernels, Linear, Quantized, zero_point

SHAPES = [(1, 17, 64), (3, 5, 48), (2, 33, 72), (2, 1, 16)]  # images, tokens, width
HEADS = [(1, 17, 2, 32), (3, 50, 3, 64), (2, 33, 2, 72), (2, 16, 1, 104), (1, 6, 4, 2), (2, 5, 3, 7), (1, 19, 1, 256)]

INPUTS = 24  # of a linear layer
GELU_ERROR = 2.5e-4  # of the kernel's polynomial, with what rounding adds


@pytest.fixture(scope="module", params=[None, "x86-64-v3", "x86-64"], ids=["this CPU", "AVX2", "no AVX2"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """As this CPU has them, and as ones without VNNI would."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            if platform.machine() != "x86_64":
                pytest.skip("this CPU is of another architecture")
            patch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
            patch.setattr(
                int8_kernels, "FLAGS", (*int8_kernels.FLAGS, f"-march={request.param}")
            )  # the last one counts
        yield Kernels()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(
    kernels: Kernels, images: int, tokens: int, width: int, seed: int = 1, factor: float | Tensor = 1.0
) -> tuple[Linear, Quantized, Tensor]:
    """A linear layer and its input, and what it gives, (images, tokens, width), times `factor`."""
    rows, generator = images * (tokens + 1), torch.Generator().manual_seed(seed)
    values = torch.randint(1, 2 * zero_point(), (rows, INPUTS), generator=generator).to(torch.uint8)
    weight = torch.randint(-47, 48, (width, INPUTS), generator=generator).to(torch.int8)
    scale, bias = factor * (random(width, seed=seed) / 3).exp() / 10000, factor * random(width, seed=seed + 1)
    row_scale = (random(images, tokens + 1, seed=seed + 2) / 2).exp()
    row_scale[:, 1] /= 100  # of the class tokens' low part
    exact = (values.double() - zero_point()) @ weight.double().T
    value = (exact * scale).float().unflatten(0, (images, tokens + 1)) * row_scale[..., None]
    value[:, 1] += value[:, 0]
    return kernels.linear(weight, scale, bias), (values, row_scale.flatten()), value[:, 1:] + bias


def copied(kernels: Kernels, rows: Tensor, width: int, factor: float | Tensor = 1.0) -> tuple[Linear, Quantized]:
    """A linear layer whose result has in every column, times `factor`, what `rows` has, (rows,)."""
    values = torch.full((len(rows), INPUTS), zero_point(), dtype=torch.uint8)
    values[:, 0] += 1
    weight = torch.zeros(width, INPUTS, dtype=torch.int8)
    weight[:, 0] = 1
    return kernels.linear(weight, factor * torch.ones(width), torch.zeros(width)), (values, rows)


def check(quantized: Quantized, expected: Tensor, error: float = 1e-5) -> None:
    """That values are whole steps next to `expected`, (images, tokens, width), the scales those of the definition.

    Args:
        error: of the expected values before they are rounded, relative to each row's largest.
    """
    images, tokens, width = expected.shape
    levels = zero_point() - 1
    assert quantized[0].dtype == torch.uint8
    values = (quantized[0].int() - zero_point()).reshape(images, tokens + 1, width)
    scale = quantized[1].reshape(images, tokens + 1, 1)
    assert values.abs().max() <= levels
    high, high_scale = (torch.cat([part[:, :1], part[:, 2:]], dim=1) for part in (values, scale))
    low, low_scale = values[:, 1], scale[:, 1]
    largest = expected.abs().amax(dim=2, keepdim=True)
    assert torch.allclose(high_scale, largest / levels, rtol=2 * error, atol=1e-7)
    assert torch.allclose(low_scale, high_scale[:, 0] / (2 * levels), rtol=1e-6)
    assert ((high * high_scale - expected).abs() <= high_scale * 0.501 + error * largest).all()
    both = high[:, 0] * high_scale[:, 0] + low * low_scale  # of the class token, to a step of 2 levels × levels
    assert ((both - expected[:, 0]).abs() <= low_scale * 0.51 + error * largest[:, 0]).all()


@pytest.mark.parametrize(("images", "tokens", "width"), SHAPES)
def test_add(kernels: Kernels, images: int, tokens: int, width: int) -> None:
    layer, quantized, value = linear(kernels, images, tokens, width)
    residual = random(images, tokens, width)
    expected = residual + value
    kernels.add(residual, layer, quantized)
    assert torch.allclose(residual, expected, atol=1e-5)


@pytest.mark.parametrize(("images", "tokens", "width"), SHAPES)
@pytest.mark.parametrize("adds", [True, False])
def test_add_norm(kernels: Kernels, images: int, tokens: int, width: int, adds: bool) -> None:
    *layer, value = linear(kernels, images, tokens, width)
    residual, gain, shift = 3 + random(images, tokens, width), random(width, seed=5), random(width, seed=6)
    expected = residual + value if adds else residual.clone()
    quantized = kernels.add_norm(residual, *(layer if adds else (None, None)), gain, shift, 1e-3)
    assert torch.allclose(residual, expected, atol=1e-5)
    check(quantized, F.layer_norm(expected, (width,), gain, shift, 1e-3))


@pytest.mark.parametrize(("images", "tokens", "width"), SHAPES)
def test_gelu(kernels: Kernels, images: int, tokens: int, width: int) -> None:
    *layer, value = linear(kernels, images, tokens, width)
    centre, inverse = random(width, seed=5), random(width, seed=6).exp()
    expected = (F.gelu(value) - centre) * inverse
    error = float((GELU_ERROR * inverse / expected.abs().amax(dim=2, keepdim=True)).max())
    check(kernels.gelu(*layer, centre, inverse, images, tokens), expected, error)


def test_gelu_is_near_the_real_one_everywhere(kernels: Kernels) -> None:
    """By rows of one value, which are quantized without error, so that the low part's resolution does not count."""
    value = torch.linspace(-12, 12, 4801)
    layer = copied(kernels, torch.cat([value[:1], torch.zeros(1), value[1:]]), 16)
    values, scale = kernels.gelu(*layer, torch.zeros(16), torch.ones(16), 1, len(value))
    given = (values.int() - zero_point()) * scale[:, None]
    assert (torch.cat([given[:1], given[2:]])[:, 0] - F.gelu(value)).abs().max() < GELU_ERROR


@pytest.mark.parametrize(("images", "tokens", "heads", "depth"), HEADS)
def test_attention(kernels: Kernels, images: int, tokens: int, heads: int, depth: int) -> None:
    width = heads * depth
    scaled = torch.ones(3 * width)
    scaled[:width] = depth**-0.5  # queries come scaled
    *layer, value = linear(kernels, images, tokens, 3 * width, factor=scaled)
    query, key, own = value.unflatten(2, (3, heads, depth)).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(query, key, own, scale=1.0).transpose(1, 2).flatten(2)
    check(kernels.attention(*layer, heads, images, tokens), expected, 2e-3)  # values have 11 bits, queries and keys 12


@pytest.mark.parametrize("tokens", [197, 257, 1025, 1370])
@pytest.mark.parametrize("sinks", [1, 4])
@pytest.mark.parametrize("gap", [0.0, 4.0, 6.0, 7.5, 7.7, 9.0, 12.0])
def test_attention_sinks(kernels: Kernels, tokens: int, sinks: int, gap: float) -> None:
    """Keys whose logits are `gap` above all others', and whose values are nothing: the others' output is left."""
    depth, levels = 64, zero_point() - 1
    query, key, value = torch.zeros(3, tokens, depth)
    query[:, 0], key[5 : 5 + sinks, 0] = 2.0, gap / 2
    value += 1 + 0.2 * random(depth) + 0.1 * random(tokens, depth, seed=1)
    value[5 : 5 + sinks] = 0
    rows = torch.cat([query, key, value], dim=1)
    scale = rows.abs().amax(dim=1, keepdim=True) / levels
    whole = (rows / scale).round()
    exact = (whole.double() * scale).split(depth, dim=1)  # what the quantized rows say
    expected = (exact[0] @ exact[1].T).softmax(dim=1) @ exact[2]
    low = torch.zeros(1, 3 * depth)  # of the class token
    values = (torch.cat([whole[:1], low, whole[1:]]) + zero_point()).to(torch.uint8)
    layer = kernels.linear(torch.eye(3 * depth).to(torch.int8), torch.ones(3 * depth), torch.zeros(3 * depth))
    result, step = kernels.attention(layer, (values, torch.cat([scale[:1], scale[:1], scale[1:]])), 1, 1, tokens)
    given = (result.double() - zero_point()) * step[:, None]
    largest = expected.abs().amax()
    assert (given[:2].sum(dim=0) - expected[0]).abs().max() < 0.01 * largest
    assert (given[2:] - expected[1:]).abs().max() < (0.01 + 0.5 / levels) * largest


@pytest.mark.parametrize(("tokens", "depth"), [(3, 4096), (8200, 16)])
def test_sums_of_attention_do_not_overflow(kernels: Kernels, tokens: int, depth: int) -> None:
    """The largest integers of one sign, over deep heads and over long images."""
    scaled, scale = torch.ones(3 * depth), torch.ones(tokens + 1)
    scaled[:depth] /= depth
    scale[1] = 0
    values, scale = kernels.attention(*copied(kernels, scale, 3 * depth, scaled), 1, 1, tokens)
    given = (values.int() - zero_point()) * scale[:, None]
    assert torch.allclose(given[2:], torch.ones_like(given[2:]), atol=1e-2)
    assert torch.allclose(given[:2].sum(dim=0), torch.ones(depth), atol=1e-2)


@pytest.mark.parametrize(("tokens", "width", "outputs"), [(1, 8, 8), (7, 24, 16), (30, 64, 40), (700, 1536, 16)])
def test_linear_is_exact(kernels: Kernels, tokens: int, width: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(1, 2 * zero_point(), (tokens + 1, width), generator=generator).to(torch.uint8)
    weight = torch.randint(-47, 48, (outputs, width), generator=generator).to(torch.int8)
    full = min((int8_kernels.largest_weight_sum() or 508) // 4, 127)
    weight[0], weight[1], values[-1] = full, -full, 2 * zero_point() - 1  # as much of one sign as may be
    assert int8_kernels.largest_weight_sum() is None or sums_of_four(weight).max() <= int8_kernels.largest_weight_sum()
    scale, row_scale = random(outputs, seed=1).exp(), torch.ones(tokens + 1)
    row_scale[1] = 0
    result = torch.zeros(1, tokens, outputs)
    kernels.add(result, kernels.linear(weight, scale, torch.zeros(outputs)), (values, row_scale))
    exact = (values.long() - zero_point()) @ weight.long().T
    assert torch.allclose(result[0], torch.cat([exact[:1], exact[2:]]) * scale, rtol=1e-6, atol=0)


def test_inputs_come_in_eights(kernels: Kernels) -> None:
    with pytest.raises(UnsupportedError, match="a multiple of 8 inputs, not 36"):
        kernels.linear(torch.zeros(21, 36, dtype=torch.int8), torch.ones(21), torch.zeros(21))


def every_kernel(kernels: Kernels) -> list[Tensor]:
    images, tokens, heads, depth = 3, 21, 2, 36
    width = heads * depth
    residual = random(images, tokens, width)
    layer, quantized, _ = linear(kernels, images, tokens, width)
    both = kernels.add_norm(residual, layer, quantized, random(width, seed=5), random(width, seed=6), 1e-6)
    kernels.add(residual, layer, quantized)
    gelu = kernels.gelu(layer, quantized, random(width, seed=7), random(width, seed=8), images, tokens)
    attention = kernels.attention(*linear(kernels, images, tokens, 3 * width)[:2], heads, images, tokens)
    return [residual, *both, *gelu, *attention]


def in_a_thread(threads: int, function: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Where PyTorch is set to so many threads, in a Python thread of its own."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        return pool.submit(function).result()


def test_threads_change_nothing(kernels: Kernels) -> None:
    before = torch.get_num_threads()
    one, two, three = (in_a_thread(threads, lambda: every_kernel(kernels)) for threads in (1, 2, 3))
    torch.set_num_threads(before)
    assert all(map(torch.equal, one, two))
    assert all(map(torch.equal, one, three))


def test_images_are_independent_of_each_other(kernels: Kernels) -> None:
    heads, tokens, width = 2, 9, 64
    layer, (values, scales), _ = linear(kernels, 3, tokens, 3 * width)
    together = kernels.attention(layer, (values, scales), heads, 3, tokens)
    for image in range(3):
        rows = slice(image * (tokens + 1), (image + 1) * (tokens + 1))
        alone = kernels.attention(layer, (values[rows], scales[rows]), heads, 1, tokens)
        assert torch.equal(alone[0], together[0][rows])
        assert torch.equal(alone[1], together[1][rows])


def test_kernels_use_as_many_threads_as_pytorch_is_set_to() -> None:
    """Counted in a process of its own, in a Python thread that PyTorch has not run in."""
    script = """
import os, sys, threading, torch
sys.path.insert(0, sys.argv[1])
import test_kernels as here
def tasks(): return set(os.listdir("/proc/self/task"))
def call():
    residual, weight = torch.zeros(1, 8, 16), torch.zeros(16)
    before = tasks()  # one may be ending: so they are told apart, not counted
    kernels.add_norm(residual, None, None, weight, weight, 1e-6)
    print(len(tasks() - before))
kernels = here.Kernels()
for threads in (1, 3):
    torch.set_num_threads(threads)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.split() == ["0", "2"]


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_register_rate(kernels: Kernels, arithmetic: str) -> None:
    assert 0 < kernels.register_rate(arithmetic, threads=2) < inf


def test_register_rate_of_bfloat16(kernels: Kernels) -> None:
    """There is one where the kernels are compiled for a CPU that has such an instruction."""
    native = not int8_kernels.FLAGS[-1].startswith("-march=x86-64")
    rate = kernels.register_rate("bfloat16", threads=1)
    assert (rate is not None) == (native and torch.cpu._is_avx512_bf16_supported())
    assert rate is None or 0 < rate < inf


@pytest.mark.parametrize("number", [0, 1, 2])
def test_products_in_registers_are_those_of_all_steps_and_threads(kernels: Kernels, number: int) -> None:
    def products(steps: int, threads: int) -> int:
        return kernels._library.multiply_in_registers(number, steps, threads)

    assert products(0, 1) == 0
    assert products(5, 1) == 5 * products(1, 1)
    assert products(5, 3) == 3 * products(5, 1)


def test_the_register_rate_is_the_highest_of_long_enough_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CPU that takes a million products on each thread, by a clock that says it took 1 ms, then 25 ms and more."""
    durations = [0.001, 0.050, 0.025, *(0.040 for _ in range(int8_kernels.REPETITIONS - 2))]
    clock = accumulate((part for duration in durations for part in (duration, 0)), initial=0.0)
    asked = []

    def multiply(number, steps, threads) -> int:
        asked.append((number.value, steps.value, threads.value))
        return threads.value * 1_000_000

    monkeypatch.setattr(int8_kernels, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    kernels = Kernels()
    kernels._library = SimpleNamespace(multiply_in_registers=multiply)
    assert kernels.register_rate("float32", threads=3) == pytest.approx(3_000_000 / 0.025)
    assert asked[1:] == [(1, 2 * asked[0][1], 3)] * int8_kernels.REPETITIONS


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and kernels that compile fast."""
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path))
    monkeypatch.setattr(int8_kernels, "FLAGS", (*int8_kernels.FLAGS, "-O0"))
    return tmp_path / "compiled"


def library(cold: Path) -> Path:
    (found,) = cold.glob("*.so")
    return found


def works() -> bool:
    kernels, residual = Kernels(), random(1, 5, 16)
    *layer, value = linear(kernels, 1, 5, 16)
    expected = residual + value
    kernels.add(residual, *layer)
    return torch.allclose(residual, expected, atol=1e-5)


def test_the_warm_cache_needs_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Kernels()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "gone")
    assert works()


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("", "need a C.. compiler: install g.., or set CXX to one"),
        ("gone -O2", "need a C.. compiler: install g.., or set CXX to one"),
        ("'g++", "CXX='g.. cannot be read .No closing quotation.: set it to a C.. compiler"),
    ],
)
def test_without_a_compiler(cold: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, message: str) -> None:
    monkeypatch.setenv("PATH", str(cold))
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(UnsupportedError, match=message):
        Kernels()
    assert list(cold.glob("*.so")) == []


def test_a_compiler_with_arguments(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "env LANG=C g++")
    assert works()


def test_a_compiler_that_fails(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ --no-such-option")
    with pytest.raises(UnsupportedError, match=r"^g\+\+ --no-such-option cannot compile the INT8 kernels: .*error"):
        Kernels()
    assert [path.suffix for path in cold.iterdir()] == [".lock"]


def test_a_damaged_library_is_compiled_again(cold: Path) -> None:
    int8_kernels._compiled()  # and not loaded: what is spoiled below is not this process's memory
    content = library(cold).read_bytes()
    library(cold).write_bytes(content[: len(content) // 2])
    assert works()
    assert library(cold).read_bytes()[-32:] == content[-32:]


def test_a_whole_library_that_does_not_load(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ -c")  # an object file
    with pytest.raises(UnsupportedError, match=r"\.so does not load .*: set VITQUANT_CACHE to another folder"):
        Kernels()


def test_several_at_once_compile_once(cold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compiler = tmp_path / "calls", tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho >> {calls}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import test_kernels as here
here.int8_kernels.FLAGS += ("-O0", "-DOTHERS")
assert here.works()
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    environment = {**os.environ, "CXX": str(compiler)}
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(calls.read_text()) == 1
    monkeypatch.setenv("CXX", str(compiler))
    with ThreadPoolExecutor(4) as pool:  # and threads: with other flags, so another library
        assert all(pool.map(lambda _: works(), range(4)))
    assert len(calls.read_text()) == 2
    assert sorted(path.suffix for path in cold.iterdir()) == [".lock", ".lock", ".so", ".so"]


def test_a_cache_that_cannot_be_written(cold: Path) -> None:
    int8_kernels._compiled()
    lock = library(cold).with_suffix(".lock")
    library(cold).unlink()
    lock.unlink()
    lock.mkdir()  # root may write anywhere but here
    with pytest.raises(VitquantError, match=r"\.lock cannot be written .*: set VITQUANT_CACHE to a folder"):
        Kernels()
