"""The kernels of CUDA C++: what they compute, on a GPU or emulated on the CPU, and what they take of a T4."""

import copy
import math
import re
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import triton

from vitquant.errors import UnsupportedError
from vitquant.recipes.vitquant_gpu import weights
from vitquant.recipes.vitquant_gpu.kernels import check
from vitquant.recipes.vitquant_gpu.linear import Linear
from vitquant.recipes.vitquant_gpu.network import Network
from vitquant.recipes.vitquant_gpu.reference import Reference
from vitquant.recipes.vitquant_gpu.shape import GROUP, Shape, shape_of
from vitquant.recipes.vitquant_gpu.turing import Launch, TuringKernels, kernels
from vitquant.recipes.vitquant_gpu.turing.module import Module, cached, compiled

from .cases import CUDA, DEVICE, TOLERANCE, error, poisoned, quantize, random, random_model, uniform
from .emulated import Emulator

INT8 = torch.int8
PROCESSORS = [1, 6, 1000]  # of the GPU: few get large tiles, many get small ones
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
REGISTERS, SHARED, RESIDENT = (
    65536,
    64 << 10,
    1024,
)  # of a T4's multiprocessor: NVIDIA, CUDA Programming Guide, table 30
SPILLED = 32  # bytes of a thread at most: what does not fit into its registers


def shape(width: int, head: int) -> Shape:
    """Of a model of which only the kernels are asked."""
    return Shape(257, 1, width, 4 * width, head, 14, 1, 8, ((1e-6, 1e-6),), 1e-6)


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """All kernels of some models."""
    models = [(128, 32), (192, 64), (384, 64)] + [(768, 64), (256, 128)] * CUDA
    names = [name for model in models for static in (True, False) for name in kernels(shape(*model), static=static)]
    names = list(dict.fromkeys(names))
    return Module(names, DEVICE) if CUDA else Emulator(names, tmp_path_factory.mktemp("emulated"))


SHAPES = [(5, 64, 64), (65, 128, 192), (130, 192, 320)] + [(197, 768, 3072), (257, 1536, 384), (2088, 384, 1152)] * CUDA
each_size = pytest.mark.parametrize("processors", PROCESSORS)
each_shape = pytest.mark.parametrize("sizes", SHAPES, ids=str)  # rows, depth, width


def layer_of(depth: int, width: int) -> Linear:
    """Random, its results about 1 where the inputs are a third of INT8's range."""
    scale = uniform(width) / (127**2 / 9 * depth**0.5)
    return Linear(random(width, depth, kind=INT8), scale, random(width))


@each_size
@each_shape
def test_qkv(sizes: tuple[int, int, int], processors: int, launch: Launch) -> None:
    rows, depth, width = sizes
    x, layer, row_scale = random(rows, depth, kind=INT8), layer_of(depth, width), uniform(rows)
    out = poisoned(rows, width, dtype=torch.float16)
    TuringKernels(launch, processors).linear("qkv", layer, x, out, row_scale=row_scale)
    expected = row_scale[:, None] * (x.float() @ layer.weight.float().T) * layer.scale + layer.bias
    assert error(out, expected) < TOLERANCE[torch.float16]


@each_size
@each_shape
def test_fc1_with_one_scale(sizes: tuple[int, int, int], processors: int, launch: Launch) -> None:
    rows, depth, width = sizes
    x, layer, row_scale = random(rows, depth, kind=INT8), layer_of(depth, width), uniform(rows)
    multiplier, offset = uniform(width) * 63, random(width)
    clipped = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    out = poisoned(rows, width, dtype=INT8)
    TuringKernels(launch, processors).linear(
        "fc1", layer, x, out, row_scale=row_scale, multiplier=multiplier, offset=offset, clipped=clipped
    )
    product = row_scale[:, None] * (x.float() @ layer.weight.float().T) * layer.scale + layer.bias
    expected = F.gelu(product) * multiplier + offset
    assert error(out, quantize(expected, INT8)) < TOLERANCE[INT8]
    beyond = int((expected.abs() > 127.5).sum())
    assert beyond > 0
    assert abs(int(clipped) - beyond) <= 0.1 * beyond + 3  # GELU's approximation moves some over the edge


@each_size
@each_shape
def test_fc1_with_scales_for_groups(sizes: tuple[int, int, int], processors: int, launch: Launch) -> None:
    rows, depth, width = sizes
    x, layer, row_scale = random(rows, depth, kind=INT8), layer_of(depth, width), uniform(rows)
    multiplier, offset = uniform(width), random(width)
    out, out_scale = poisoned(rows, width, dtype=INT8), poisoned(-(-width // GROUP), rows, dtype=torch.float32)
    TuringKernels(launch, processors).linear(
        "fc1", layer, x, out, row_scale=row_scale, multiplier=multiplier, offset=offset, out_scale=out_scale
    )
    product = row_scale[:, None] * (x.float() @ layer.weight.float().T) * layer.scale + layer.bias
    found = out.float() * out_scale.T.repeat_interleave(GROUP, 1)[:, :width]
    assert error(found, F.gelu(product) * multiplier + offset) < TOLERANCE[INT8]
    for group in out.float().abs().split(GROUP, dim=1):
        assert group.amax(1).eq(127).all()


@each_size
@each_shape
@pytest.mark.parametrize(("name", "group"), [("proj", 0), ("proj", 32), ("proj", 64), ("fc2", GROUP)])
def test_residual_sum(name: str, group: int, sizes: tuple[int, int, int], processors: int, launch: Launch) -> None:
    """Of inputs with one scale (0), or a scale for each row and so many columns."""
    rows, depth, width = sizes
    x, layer, x_scale = random(rows, depth, kind=INT8), layer_of(depth, width), None
    values = x.float()
    if group:
        x_scale = uniform(-(-depth // group), rows)
        values = values * x_scale.T.repeat_interleave(group, 1)[:, :depth]
    out = random(rows, width, kind=torch.float16)
    expected = out.float() + values @ layer.weight.float().T * layer.scale + layer.bias
    TuringKernels(launch, processors).linear(name, layer, x, out, row_scale=x_scale)
    assert error(out, expected) < TOLERANCE[torch.float16]


@pytest.mark.parametrize(("rows", "width"), [(5, 128), (67, 192), (33, 384)] + [(2057, 768)] * CUDA)
def test_norm(rows: int, width: int, launch: Launch) -> None:
    x, gain, shift = (random(rows, width) * 3 + 1).half(), random(width) + 1, random(width)
    out, scale = poisoned(rows, width, dtype=INT8), poisoned(rows, dtype=torch.float32)
    TuringKernels(launch, 1).norm(x, gain, shift, 1e-6, out, scale)
    expected = F.layer_norm(x.float(), (width,), gain, shift, 1e-6)
    assert error(out.float() * scale[:, None], expected) < TOLERANCE[INT8]
    assert out.abs().amax(1).eq(127).all()


@pytest.mark.parametrize("head", [32, 64] + [128] * CUDA)
@pytest.mark.parametrize("tokens", [10, 50, 64, 65, 130] + [197, 257, 261, 1370] * CUDA)
@pytest.mark.parametrize("spread", [1, 6])  # of queries: shares that are alike, and shares of a few keys
def test_attention(tokens: int, head: int, spread: int, launch: Launch) -> None:
    images, heads = 2, 3
    width, rows = head * heads, images * tokens
    qkv = random(rows, 3 * width)
    qkv[:, :width] *= spread * head**-0.5
    qkv = qkv.half()
    query, key, value = qkv.float().reshape(images, tokens, 3, heads, head).permute(2, 0, 3, 1, 4)
    share = torch.softmax(query @ key.transpose(2, 3) * math.log(2), dim=-1)
    expected = (share @ value).transpose(1, 2).reshape(rows, width)
    factor = 60 / expected.abs().max().reshape(1)
    run = TuringKernels(launch, 1).attention
    out, clipped = poisoned(rows, width, dtype=INT8), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    run(qkv, out, tokens, head, multiplier=factor, out_scale=None, clipped=clipped)
    assert (out - expected * factor).abs().max() < 0.6
    assert int(clipped) == 0
    out = poisoned(rows, width, dtype=INT8)
    run(qkv, out, tokens, head, multiplier=4 * factor, out_scale=None, clipped=clipped)
    beyond = int(((expected * 4 * factor).abs() > 127.5).sum())
    assert abs(int(clipped) - beyond) <= 0.1 * beyond + 3
    assert (out - (expected * 4 * factor).clamp(-128, 127)).abs().max() < 0.9
    out, scale = poisoned(rows, width, dtype=INT8), poisoned(heads, rows, dtype=torch.float32)
    run(qkv, out, tokens, head, multiplier=None, out_scale=scale)
    assert error(out.float() * scale.T.repeat_interleave(head, 1), expected) < TOLERANCE[INT8]
    assert out.unflatten(1, (heads, head)).abs().amax(2).eq(127).all()


@pytest.mark.parametrize("static", [True, False])
def test_the_whole_network(static: bool, launch: Launch) -> None:
    """Against the definition, and against FP32; and what is clipped is counted."""
    model = random_model()
    images = torch.randn(2, 3, 64, 64)
    exact, own = model(images), shape_of(model)
    tensors, _ = weights.quantize(copy.deepcopy(model), images, "int8", static=static)
    positions = weights.positions(model, own)
    expected = Reference(tensors, positions, own, static=static)(images)
    network = Network(tensors, positions, own, TuringKernels(launch, 4), DEVICE, static=static)
    found = network(images.to(DEVICE)).cpu()
    assert error(found, expected) < 0.7 * error(expected, exact) + 0.003  # a rounding that flips moves what follows
    assert error(found, exact) < 1.2 * error(expected, exact) + 0.003
    counts = torch.zeros(own.blocks, 2, dtype=torch.int64, device=DEVICE)
    assert torch.isfinite(network((3 * images).to(DEVICE), counts)).all()
    assert counts.gt(0).all() == static


def test_the_kernels_fit_a_t4(tmp_path: Path) -> None:
    models = [shape(*model) for model in ((192, 32), (384, 64), (768, 64), (1024, 64), (256, 128))]
    needed = dict.fromkeys(
        name for model in models for static in (True, False) for name in kernels(model, static=static)
    )
    code, names = compiled(list(needed), "sm_75")
    (tmp_path / "cubin").write_bytes(code)
    command = [CUOBJDUMP, "-res-usage", tmp_path / "cubin"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for kernel, name in names.items():
        line = usage[usage.index(f"Function {name}:") :].splitlines()[1]
        registers, stack, shared, local = (
            int(re.search(rf"{word}:(\d+)", line)[1]) for word in ("REG", "STACK", "SHARED", "LOCAL")
        )
        tile = re.match(r"linear<\d+, \d+, (\d+), (\d+)", kernel)
        threads = 32 * int(tile[1]) * int(tile[2]) if tile else 128
        assert registers <= 255
        assert stack + local <= SPILLED, kernel
        fit = min(REGISTERS // (registers * threads), SHARED // shared if shared else 16, RESIDENT // threads)
        assert fit * threads >= 256, kernel  # so many threads that one's wait is another's work


def test_machine_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "cache"))
    first = cached(["norm<64>"], "sm_75")
    (kept,) = (tmp_path / "cache" / "compiled").glob("*.json")
    written = kept.stat().st_mtime_ns
    assert cached(["norm<64>"], "sm_75") == first
    assert kept.stat().st_mtime_ns == written
    kept.write_text("{")
    assert cached(["norm<64>"], "sm_75")[1] == first[1]
    assert kept.stat().st_size > 1000


def test_what_does_not_compile_is_one_line() -> None:
    with pytest.raises(UnsupportedError, match=r"^NVRTC cannot compile the kernels for sm_75: .*64.*$"):
        compiled(["norm<65>"], "sm_75")


@pytest.mark.parametrize(
    ("capability", "number", "reason"),
    [((7, 0), "int8", "7.5 or later"), ((7, 5), "float16", "int8 alone"), ((7, 5), "float8", "int8 alone")],
)
def test_what_a_gpu_lacks_is_named(capability: tuple[int, int], number: str, reason: str) -> None:
    for works in ((7, 5), "int8"), ((8, 0), "bfloat16"):
        check(*works)
    with pytest.raises(UnsupportedError, match=rf"^vitquant_gpu .*{reason}.*compute capability is {capability[0]}\."):
        check(capability, number)
