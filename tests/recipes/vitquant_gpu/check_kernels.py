"""Every kernel against its definition in PyTorch, on odd sizes: on a GPU, or by Triton's interpreter on the CPU.

test_kernels.py runs this file in a process of its own, since a process interprets all Triton kernels or none. Outputs
are poisoned before, so that what is not written shows.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitquant.models.vit import ViTClassifier
from vitquant.recipes.vitquant_gpu import attention, linear, norms, patches, weights
from vitquant.recipes.vitquant_gpu.launch import Gpu
from vitquant.recipes.vitquant_gpu.network import Network
from vitquant.recipes.vitquant_gpu.reference import Reference
from vitquant.recipes.vitquant_gpu.shape import shape_of
from vitquant.recipes.vitquant_gpu.tiles import AttentionTile, Tile

from ..vision_transformer import vit_with_registers

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
HERE = Gpu.of(DEVICE) if CUDA else Gpu(90, 4)
GPUS = [Gpu(number, HERE.processors) for number in (80, 90) if number == 80 or HERE.tma]  # by pointers, and by TMA
FLOATS = (torch.float16, torch.bfloat16)
KINDS = [torch.int8, *FLOATS] + [torch.float8_e4m3fn] * (not CUDA or HERE.capability >= 89)
TOP = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float16: 1.0, torch.bfloat16: 1.0}
TOLERANCE = {
    torch.int8: 0.02,
    torch.float8_e4m3fn: 0.08,
    torch.float16: 0.002,
    torch.bfloat16: 0.01,
}  # of FP32's result

every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
every_gpu = pytest.mark.parametrize("gpu", GPUS, ids=str)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """Memory that no kernel has written: NaN, or in INT8 a value that no result here has everywhere."""
    return torch.full(shape, -77 if dtype == torch.int8 else torch.nan, device=DEVICE).to(dtype)


def random(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
    """Values of a type, their spread a third of its range (of BF16: 1)."""
    values = torch.randn(shape, device=DEVICE)
    return quantize(values * TOP[kind] / 3, kind) if kind.itemsize == 1 else values.to(kind)


def floats(kind: torch.dtype) -> torch.dtype:
    """The type of what is not quantized, where the linear layers have `kind`."""
    return kind if kind in FLOATS else torch.float16


def quantize(values: Tensor, kind: torch.dtype) -> Tensor:
    """Rounded to the nearest value of a type."""
    if kind in FLOATS:
        return values.to(kind)
    lowest = -128.0 if kind == torch.int8 else -TOP[kind]
    inside = values.clamp(lowest, TOP[kind])
    return (inside.round() if kind == torch.int8 else inside).to(kind)


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, of the norms; NaN where any is."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


SHAPES = [(5, 128, 64), (130, 192, 320), (65, 320, 128)]  # rows, depth, width
TILES = [Tile(64, 64, 64, 4, 3), Tile(128, 128, 64, 4, 3, 2, 2), Tile(64, 32, 128, 4, 3)]


@every_gpu
@every_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("follows", ["plain", "gelu", "residual"])
def test_linear(shape: tuple[int, int, int], kind: torch.dtype, gpu: Gpu, follows: str) -> None:
    rows, depth, width = shape
    tile = TILES[SHAPES.index(shape)]
    x, weight, bias = random(rows, depth, kind=kind), random(width, depth, kind=kind), random(width)
    row_scale = scale = None
    product = x.float() @ weight.float().T
    if kind not in FLOATS:
        scale = torch.rand(width, device=DEVICE) + 0.5
        scale /= TOP[kind] ** 2 / 9 * depth**0.5
        if follows != "residual":
            row_scale = torch.rand(rows, device=DEVICE) + 0.5
            product = product * row_scale[:, None]
        product = product * scale
    expected = product + bias
    layer, given = linear.Linear(weight, scale, bias), {}
    if follows == "plain":
        out = poisoned(rows, width, dtype=floats(kind))
        layer(x, out, linear.PLAIN, tile, gpu, row_scale=row_scale)
    elif follows == "gelu":
        out = poisoned(rows, width, dtype=kind)
        multiplier, offset = (torch.rand(width, device=DEVICE) + 0.5) * TOP[kind] / 2, random(width)
        clipped = torch.zeros((), dtype=torch.int64, device=DEVICE)
        expected = F.gelu(expected)
        if kind not in FLOATS:
            expected = expected * multiplier + offset
            given = {"clipped": clipped}
        layer(x, out, linear.GELU, tile, gpu, row_scale=row_scale, multiplier=multiplier, offset=offset, **given)
        if given:
            beyond = int((expected.abs() > TOP[kind] + 0.5).sum())
            assert beyond > 0
            assert abs(int(clipped) - beyond) <= 0.1 * beyond + 3  # GELU's approximation moves some over the edge
        expected = quantize(expected, kind)
    else:
        out = random(rows, width).to(floats(kind))
        expected = expected + out.float()
        layer(x, out, linear.RESIDUAL, tile, gpu, residual=out)
    assert error(out, expected) < TOLERANCE[kind]


@every_gpu
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FLOATS], ids=str)
@pytest.mark.parametrize("shape", [(5, 128, 128), (130, 192, 384)], ids=str)
def test_linear_with_scales_for_groups(shape: tuple[int, int, int], kind: torch.dtype, gpu: Gpu) -> None:
    """Those of the inputs for each row and 64 columns, those of the outputs for each row and 128."""
    rows, depth, width = shape
    x, weight, bias = random(rows, depth, kind=kind), random(width, depth, kind=kind), random(width)
    group_scale = torch.rand(depth // 64, rows, device=DEVICE) + 0.5
    scale = (torch.rand(width, device=DEVICE) + 0.5) / (TOP[kind] ** 2 / 9 * depth**0.5)
    expected = (x.float() * group_scale.T.repeat_interleave(64, 1)) @ weight.float().T * scale + bias
    layer = linear.Linear(weight, scale, bias)
    out = random(rows, width).to(floats(kind))
    before = out.float()
    layer(x, out, linear.RESIDUAL, Tile(64, 32, 64, 4, 3), gpu, row_scale=group_scale, residual=out)
    assert error(out, expected + before) < TOLERANCE[kind]
    out, out_scale = poisoned(rows, width, dtype=kind), poisoned(width // 128, rows, dtype=torch.float32)
    one, zero = torch.ones(width, device=DEVICE), torch.zeros(width, device=DEVICE)
    layer(
        x, out, linear.GELU_SCALED, Tile(64, 128, 64, 4, 3), gpu, row_scale=group_scale, multiplier=one, offset=zero,
        out_scale=out_scale,
    )  # fmt: skip
    found = out.float() * out_scale.T.repeat_interleave(128, 1)
    assert error(found, F.gelu(expected)) < TOLERANCE[kind]
    assert out.float().abs().unflatten(1, (-1, 128)).amax(2).eq(TOP[kind]).all()


# tokens, tile: fewer than a tile of keys; a tile and one; a tile and some; several tiles with and without a rest
ATTENTIONS = [
    (10, AttentionTile(16, 16, 1, 4, 2)),
    (33, AttentionTile(16, 32, 3, 4, 2)),
    (37, AttentionTile(16, 32, 2, 4, 2)),
    (49, AttentionTile(32, 16, 1, 4, 2)),
    (48, AttentionTile(16, 16, 2, 4, 2)),
]
if CUDA:  # as the models have them: too long for the interpreter
    ATTENTIONS += [
        (197, AttentionTile(64, 64, 1, 4, 3)),
        (197, AttentionTile(64, 256, 4, 4, 2)),
        (257, AttentionTile(64, 128, 1, 4, 2)),
        (257, AttentionTile(64, 256, 5, 4, 2)),
        (577, AttentionTile(64, 64, 1, 4, 3)),
        (1370, AttentionTile(128, 64, 1, 4, 3)),
    ]


@every_gpu
@every_kind
@pytest.mark.parametrize("head", [32, 64])
@pytest.mark.parametrize(("tokens", "tile"), ATTENTIONS, ids=str)
def test_attention(tokens: int, tile: AttentionTile, head: int, kind: torch.dtype, gpu: Gpu) -> None:
    images, heads = 2, 2
    width, rows = head * heads, images * tokens
    qkv = random(rows, 3 * width).to(floats(kind))
    query, key, value = qkv.float().reshape(images, tokens, 3, heads, head).permute(2, 0, 3, 1, 4)
    share = torch.softmax(query @ key.transpose(2, 3) * math.log(2), dim=-1)
    expected = (share @ value).transpose(1, 2).reshape(rows, width)
    out, factor = poisoned(rows, width, dtype=kind), torch.tensor([TOP[kind] / 2], device=DEVICE)
    attention.attention(qkv, out, tokens, head, tile, gpu, multiplier=factor)
    final = expected if kind in FLOATS else quantize(expected * factor, kind)
    assert error(out, final) < TOLERANCE[kind]
    if kind not in FLOATS:
        counter = torch.zeros((), dtype=torch.int64, device=DEVICE)
        attention.attention(qkv, out, tokens, head, tile, gpu, multiplier=factor, clipped=counter)
        beyond = int(((expected * factor).abs() > TOP[kind] + 0.5).sum())
        assert abs(int(counter) - beyond) <= 0.1 * beyond + 3
        out, scale = poisoned(rows, width, dtype=kind), poisoned(heads, rows, dtype=torch.float32)
        attention.attention(qkv, out, tokens, head, tile, gpu, out_scale=scale)
        assert error(out.float() * scale.T.repeat_interleave(head, 1), expected) < TOLERANCE[kind]


@every_kind
@pytest.mark.parametrize(("rows", "width", "several"), [(5, 128, 1), (67, 192, 8), (33, 384, 4)])
def test_norm(rows: int, width: int, several: int, kind: torch.dtype) -> None:
    x, gain, shift = random(rows, width).to(floats(kind)) * 3 + 1, random(width) + 1, random(width)
    out, scale = poisoned(rows, width, dtype=kind), poisoned(rows, dtype=torch.float32)
    norms.norm(x, gain, shift, 1e-6, out, scale, rows=several, warps=2)
    expected = F.layer_norm(x.float(), (width,), gain, shift, 1e-6)
    found = out.float() if kind in FLOATS else out.float() * scale[:, None]
    assert error(found, expected) < TOLERANCE[kind]


@pytest.mark.parametrize(
    ("tokens", "prefix", "width", "classes", "parts"), [(17, 1, 128, 6, 8), (54, 5, 192, 70, 8), (17, 1, 64, 6, 32)]
)
def test_last_norm_and_head(tokens: int, prefix: int, width: int, classes: int, parts: int) -> None:
    images = 3
    x, gain, shift = random(images * tokens, width).half(), random(width) + 1, random(width)
    weight, bias = random(classes, 2 * width), random(classes)
    sums = poisoned(images, parts + 1, width, dtype=torch.float32)
    out = poisoned(images, classes + width, dtype=torch.float32)
    norms.last_norm(x, gain, shift, 1e-6, sums, tokens, prefix, early=False)
    norms.head(sums, weight, bias, out, tokens - prefix, early=False)
    final = F.layer_norm(x.float(), (width,), gain, shift, 1e-6).unflatten(0, (images, tokens))
    features = torch.cat([final[:, 0], final[:, prefix:].mean(1)], dim=1)
    expected = torch.cat([F.linear(features.double(), weight.double(), bias.double()), final[:, 0]], dim=1)
    assert error(out, expected) < 1e-5


@every_gpu
@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize(("side", "height", "prefix"), [(14, 70, 1), (16, 48, 5)])
def test_patches(side: int, height: int, prefix: int, kind: torch.dtype, gpu: Gpu) -> None:
    images, width, count = 3, 128, (height // side) ** 2
    pixels, kernel, bias = random(images, 3, height, height), random(width, 3, side, side) / side, random(width)
    positions = random(prefix + count, width).to(kind)
    depth = patches.padded_depth(side)
    rows = poisoned(images * count, depth, dtype=kind)
    tokens = poisoned(images * (prefix + count), width, dtype=kind)
    patches.copy_patches(pixels, rows, positions, tokens, side, prefix)
    weight = F.pad(kernel.flatten(1), (0, depth - 3 * side * side)).to(kind)
    layer = linear.Linear(weight, None, bias)
    layer(rows, tokens, linear.TOKENS, Tile(64, 64, 64, 4, 3), gpu, residual=positions, prefix=prefix)
    embedded = F.conv2d(pixels, kernel, bias, stride=side).flatten(2).transpose(1, 2)
    expected = torch.cat([torch.zeros(images, prefix, width, device=DEVICE), embedded], dim=1) + positions.float()
    assert error(tokens.unflatten(0, (images, -1)), expected) < TOLERANCE[kind]


def random_model() -> ViTClassifier:
    """Of two blocks, with registers among its tokens, and a hidden layer that is no multiple of a group."""
    model = ViTClassifier(vit_with_registers.__name__, 64, 6).requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        spread = parameter[0].numel() ** -0.5 if name.endswith("weight") and parameter.ndim > 1 else 0.2
        parameter.copy_(torch.randn(parameter.shape) * spread + ("norm" in name and name.endswith("weight")))
    return model


@every_gpu
@pytest.mark.parametrize("number", [name for name, kind in weights.TYPES.items() if kind in KINDS])
@pytest.mark.parametrize("static", [True, False])
def test_the_whole_network(number: str, static: bool, gpu: Gpu) -> None:
    """Against the definition, and against FP32."""
    model = random_model()
    images = torch.randn(3, 3, 64, 64)
    exact = model(images)
    shape, positions = shape_of(model), weights.positions(model, shape_of(model))
    tensors, _ = weights.quantize(copy.deepcopy(model), images, number, static=static)
    expected = Reference(tensors, positions, shape, static=static)(images)
    network = Network(tensors, positions, shape, gpu, DEVICE, static=static)
    found = network(images.to(DEVICE)).cpu()
    assert error(found, expected) < 0.7 * error(expected, exact) + 0.003  # a rounding that flips moves what follows
    assert error(found, exact) < 1.2 * error(expected, exact) + 0.003
    assert error(expected, exact) < {"int8": 0.05, "float8": 0.1, "float16": 0.005, "bfloat16": 0.02}[number]


@every_gpu
def test_clipped_values_are_counted_and_break_nothing(gpu: Gpu) -> None:
    """Static scales come from the calibration images: those clip nothing, but images of three times the contrast do."""
    model, images = random_model(), torch.randn(3, 3, 64, 64)
    shape, positions = shape_of(model), weights.positions(model, shape_of(model))
    tensors, _ = weights.quantize(copy.deepcopy(model), images, "int8", static=True)
    network = Network(tensors, positions, shape, gpu, DEVICE, static=True)
    shares, errors = [], []
    for contrast in (1, 3):
        counts = torch.zeros(shape.blocks, 2, dtype=torch.int64, device=DEVICE)
        found = network((contrast * images).to(DEVICE), counts).cpu()
        assert torch.isfinite(found).all()
        shares.append(counts.sum() / (3 * shape.tokens * shape.blocks * (shape.width + shape.hidden)))
        errors.append(error(found, model(contrast * images)))
    assert shares[0] < 1e-3 < shares[1] < 0.1
    assert errors[0] < 0.05
    assert errors[1] < 0.5
