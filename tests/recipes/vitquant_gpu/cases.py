"""What the kernels' tests share: random values of a type, memory that shows what was not written, and a small model."""

import pytest
import torch
from torch import Tensor

from vitquant.models.vit import ViTClassifier
from vitquant.recipes.vitquant_gpu.launch import Gpu

from ..vision_transformer import vit_with_registers

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
HERE = Gpu.of(DEVICE) if CUDA else Gpu(90, 1)  # the interpreter takes few large tiles faster
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
PAIRS = [(kind, gpu) for kind in KINDS for gpu in GPUS]
if not CUDA:  # the interpreter is slow: all of the one, and all of the other, and INT8 with both
    PAIRS = [(kind, gpu) for kind, gpu in PAIRS if kind == torch.int8 or (gpu.tma == (kind.itemsize == 1))]
every_pair = pytest.mark.parametrize(("kind", "gpu"), PAIRS, ids=str)


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """Memory that no kernel has written: NaN, or in INT8 a value that no result here has everywhere."""
    return torch.full(shape, -77 if dtype == torch.int8 else torch.nan, device=DEVICE).to(dtype)


def random(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
    """Values of a type, their spread a third of its range (of BF16: 1)."""
    values = torch.randn(shape, device=DEVICE)
    return quantize(values * TOP[kind] / 3, kind) if kind.itemsize == 1 else values.to(kind)


def uniform(*shape: int) -> Tensor:
    """Float32 of 0.5 to 1.5, as scales."""
    return torch.rand(shape, device=DEVICE) + 0.5


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


def random_model() -> ViTClassifier:
    """Of two blocks, with registers among its tokens, and a hidden layer that is no multiple of a group."""
    model = ViTClassifier(vit_with_registers.__name__, 64, 6).requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        spread = parameter[0].numel() ** -0.5 if name.endswith("weight") and parameter.ndim > 1 else 0.2
        parameter.copy_(torch.randn(parameter.shape) * spread + ("norm" in name and name.endswith("weight")))
    return model
