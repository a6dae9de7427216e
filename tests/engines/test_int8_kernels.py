"""Each kernel against PyTorch in floating point, for CPUs with and without VNNI, and the cache that they lie in."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitquant.engines import int8_kernels
from vitquant.engines.int8_kernels import Kernels, Result, zero_point
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.quantization.rounding import sums_of_four

SHAPES = [(1, 17, 64), (3, 5, 48), (2, 33, 72), (2, 1, 16)]  # images, tokens, width
HEADS = [(1, 17, 2, 32), (3, 50, 3, 64), (2, 33, 2, 72), (2, 16, 1, 104), (1, 6, 4, 2), (2, 5, 3, 7), (1, 19, 1, 256)]

GELU_ERROR = 2.5e-4  # of the kernel's polynomial, with what rounding adds


@pytest.fixture(scope="module", params=["this CPU", "no VNNI"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """As this CPU has them, and as one with AVX2 and no VNNI would."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no VNNI":
            without_vnni(patch)
        yield Kernels()


def without_vnni(patch: pytest.MonkeyPatch) -> None:
    if not torch.cpu._is_vnni_supported():
        pytest.skip("this CPU has no VNNI: the other case is this one")
    patch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    patch.setattr(int8_kernels, "FLAGS", (*int8_kernels.FLAGS, "-march=x86-64-v3"))  # AVX2; the last one counts


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(images: int, tokens: int, width: int, seed: int = 1) -> tuple[Result, Tensor]:
    """What a linear layer gives, (images × (tokens + 1), width), and its true value, (images, tokens, width)."""
    rows = images * (tokens + 1)
    product, scale, bias = random(rows, width, seed=seed), random(rows, seed=seed + 1).exp(), random(width, seed=seed)
    scale[-images:] /= 100  # of the class tokens' low part
    value = product * scale[:, None]
    high, low = value[: images * tokens].unflatten(0, (images, tokens)).clone(), value[images * tokens :]
    high[:, 0] += low
    return (product, scale, bias), high + bias


def check(quantized: tuple[Tensor, Tensor], expected: Tensor, error: float = 1e-5) -> None:
    """That values are whole steps next to `expected`, (images, tokens, width), the scales those of the definition.

    Args:
        error: of the expected values before they are rounded, relative to each row's largest.
    """
    values, scale = quantized
    images, tokens, _ = expected.shape
    zero, rows = zero_point(), images * tokens
    levels = zero - 1
    assert (values.dtype, values.shape) == (torch.uint8, (rows + images, expected.shape[2]))
    assert scale.shape == (rows + images,)
    largest = expected.abs().amax(dim=2)
    high_scale, low_scale = scale[:rows].unflatten(0, (images, tokens)), scale[rows:]
    assert torch.allclose(high_scale, largest / levels, rtol=2 * error, atol=1e-7)
    assert torch.allclose(low_scale, high_scale[:, 0] / (2 * levels), rtol=1e-6)
    integers = values.int() - zero
    assert integers.abs().max() <= levels
    high = (integers[:rows] * scale[:rows, None]).unflatten(0, (images, tokens))
    assert ((high - expected).abs() <= high_scale[..., None] * 0.501 + error * largest[..., None]).all()
    both = high[:, 0] + integers[rows:] * low_scale[:, None]  # of the class token, to a step of 2 levels × levels
    assert ((both - expected[:, 0]).abs() <= low_scale[:, None] * 0.51 + error * largest[:, :1]).all()


@pytest.mark.parametrize(("images", "tokens", "width"), SHAPES)
def test_add(kernels: Kernels, images: int, tokens: int, width: int) -> None:
    result, value = linear(images, tokens, width)
    residual = random(images, tokens, width)
    expected = residual + value
    kernels.add(residual, result)
    assert torch.allclose(residual, expected, atol=1e-5)


@pytest.mark.parametrize(("images", "tokens", "width"), SHAPES)
@pytest.mark.parametrize("adds", [True, False])
def test_add_norm(kernels: Kernels, images: int, tokens: int, width: int, adds: bool) -> None:
    result, value = linear(images, tokens, width)
    residual, gain, shift = 3 + random(images, tokens, width), random(width, seed=5), random(width, seed=6)
    expected = residual + value if adds else residual.clone()
    quantized = kernels.add_norm(residual, result if adds else None, gain, shift, 1e-3)
    assert torch.allclose(residual, expected, atol=1e-5)
    check(quantized, F.layer_norm(expected, (width,), gain, shift, 1e-3))


@pytest.mark.parametrize(("images", "tokens", "width"), SHAPES)
def test_gelu(kernels: Kernels, images: int, tokens: int, width: int) -> None:
    result, value = linear(images, tokens, width)
    centre, inverse = random(width, seed=5), random(width, seed=6).exp()
    expected = (F.gelu(value) - centre) * inverse
    error = float((GELU_ERROR * inverse / expected.abs().amax(dim=2, keepdim=True)).max())
    check(kernels.gelu(result, centre, inverse, images, tokens), expected, error)


def test_gelu_is_near_the_real_one_everywhere(kernels: Kernels) -> None:
    """By rows of one value, which are quantized without error, so that the low part's resolution does not count."""
    value = torch.linspace(-12, 12, 4801)
    rows = torch.cat([value, torch.zeros(1)])[:, None].repeat(1, 16)
    result = (rows, torch.ones(len(rows)), torch.zeros(16))
    values, scale = kernels.gelu(result, torch.zeros(16), torch.ones(16), 1, len(value))
    given = ((values.int() - zero_point()) * scale[:, None])[:-1, 0]
    assert (given - F.gelu(value)).abs().max() < GELU_ERROR


@pytest.mark.parametrize(("images", "tokens", "heads", "depth"), HEADS)
def test_attention(kernels: Kernels, images: int, tokens: int, heads: int, depth: int) -> None:
    width = heads * depth
    result, value = linear(images, tokens, 3 * width)
    result[0][:, :width] *= depth**-0.5  # queries come scaled
    result[2][:width] *= depth**-0.5
    value[:, :, :width] *= depth**-0.5
    query, key, own = value.unflatten(2, (3, heads, depth)).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(query, key, own, scale=1.0).transpose(1, 2).flatten(2)
    # weights and values have 10 bits, queries and keys 12
    check(kernels.attention(result, heads, images, tokens), expected, 5e-3)


@pytest.mark.parametrize(("tokens", "depth"), [(3, 4096), (8200, 16)])
def test_sums_of_attention_do_not_overflow(kernels: Kernels, tokens: int, depth: int) -> None:
    """The largest integers of one sign, over deep heads and over long images."""
    product = torch.ones(tokens + 1, 3 * depth)
    scale = torch.ones(tokens + 1)
    scale[-1] = 0
    product[:, :depth] /= depth
    values, scale = kernels.attention((product, scale, torch.zeros(3 * depth)), 1, 1, tokens)
    given = (values[:tokens].int() - zero_point()) * scale[:tokens, None]
    assert torch.allclose(given, torch.ones_like(given), atol=1e-2)


@pytest.mark.parametrize(
    ("rows", "width", "outputs"), [(1, 8, 8), (7, 24, 16), (30, 64, 40), (700, 1536, 16), (5, 36, 21)]
)
def test_linear_is_exact(kernels: Kernels, rows: int, width: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(1, 2 * zero_point(), (rows, width), generator=generator).to(torch.uint8)
    weight = torch.randint(-47, 48, (outputs, width), generator=generator).to(torch.int8)
    full = min((int8_kernels.largest_weight_sum() or 508) // 4, 127)
    weight[0], weight[1], values[0] = full, -full, 2 * zero_point() - 1  # as much of one sign as may be
    assert int8_kernels.largest_weight_sum() is None or sums_of_four(weight).max() <= int8_kernels.largest_weight_sum()
    scale, bias, row_scale = random(outputs, seed=1).exp(), random(outputs, seed=2), random(rows, seed=3).exp()
    product, *others = kernels.linear(weight, scale, bias)(values, row_scale)
    exact = (values.long() - zero_point()) @ weight.long().T
    assert torch.allclose(product, exact * scale, rtol=1e-6, atol=0)
    assert torch.equal(torch.cat(others), torch.cat([row_scale, bias]))


def every_kernel(kernels: Kernels) -> list[Tensor]:
    images, tokens, heads, depth = 3, 21, 3, 24
    width = heads * depth
    residual = random(images, tokens, width)
    result, _ = linear(images, tokens, width)
    both = kernels.add_norm(residual, result, random(width, seed=5), random(width, seed=6), 1e-6)
    kernels.add(residual, result)
    gelu = kernels.gelu(result, random(width, seed=7), random(width, seed=8), images, tokens)
    attention = kernels.attention(linear(images, tokens, 3 * width)[0], heads, images, tokens)
    weight = torch.full((width, width), 7, dtype=torch.int8)
    product, *_ = kernels.linear(weight, random(width, seed=9), random(width, seed=10))(*attention)
    return [residual, *both, *gelu, *attention, product]


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
    (product, scale, bias), _ = linear(3, tokens, 3 * width)
    values, scales = kernels.attention((product, scale, bias), heads, 3, tokens)
    for image in range(3):
        rows = [*range(image * tokens, (image + 1) * tokens), 3 * tokens + image]
        alone = kernels.attention((product[rows], scale[rows], bias), heads, 1, tokens)
        assert torch.equal(alone[0], values[rows])
        assert torch.equal(alone[1], scales[rows])


def test_kernels_use_as_many_threads_as_pytorch_is_set_to() -> None:
    """Counted in a process of its own, in a Python thread that PyTorch has not run in."""
    script = """
import os, sys, threading, torch
sys.path.insert(0, sys.argv[1])
import test_int8_kernels as here
def count(): return len(os.listdir("/proc/self/task"))
def call():
    residual, weight = torch.zeros(1, 8, 16), torch.zeros(16)
    before = count()
    kernels.add_norm(residual, None, weight, weight, 1e-6)
    print(count() - before)
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
    residual = random(1, 5, 16)
    result, value = linear(1, 5, 16)
    expected = residual + value
    Kernels().add(residual, result)
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
    script = "import sys; sys.path.insert(0, sys.argv[1]); import test_int8_kernels as here; assert here.works()"
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
