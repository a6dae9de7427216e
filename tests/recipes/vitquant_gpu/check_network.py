"""The whole network of Triton's kernels against its definition: on a GPU, or by the interpreter on the CPU."""

import copy

import pytest
import torch

from vitquant.recipes.vitquant_gpu import weights
from vitquant.recipes.vitquant_gpu.launch import Gpu
from vitquant.recipes.vitquant_gpu.network import Network
from vitquant.recipes.vitquant_gpu.reference import Reference
from vitquant.recipes.vitquant_gpu.shape import shape_of
from vitquant.recipes.vitquant_gpu.triton_kernels import TritonKernels

from .cases import CUDA, DEVICE, GPUS, KINDS, error, random_model

NETWORKS = [("int8", True, GPUS[-1]), ("int8", False, GPUS[0]), ("float16", True, GPUS[0])]
if CUDA:  # the interpreter is slow, and rounds BF16 and some of FP8 towards zero
    NUMBERS = [name for name, kind in weights.TYPES.items() if kind in KINDS]
    NETWORKS = [(number, static, gpu) for number in NUMBERS for static in (True, False) for gpu in GPUS]


@pytest.mark.parametrize(("number", "static", "gpu"), NETWORKS, ids=str)
def test_the_whole_network(number: str, static: bool, gpu: Gpu) -> None:
    """Against the definition, and against FP32."""
    model = random_model()
    images = torch.randn(3, 3, 64, 64)
    exact = model(images)
    shape, positions = shape_of(model), weights.positions(model, shape_of(model))
    tensors, _ = weights.quantize(copy.deepcopy(model), images, number, static=static)
    expected = Reference(tensors, positions, shape, static=static)(images)
    network = Network(tensors, positions, shape, TritonKernels(gpu), DEVICE, static=static)
    found = network(images.to(DEVICE)).cpu()
    assert error(found, expected) < 0.7 * error(expected, exact) + 0.003  # a rounding that flips moves what follows
    assert error(found, exact) < 1.2 * error(expected, exact) + 0.003
    assert error(expected, exact) < {"int8": 0.05, "float8": 0.1, "float16": 0.005, "bfloat16": 0.02}[number]


@pytest.mark.parametrize("gpu", GPUS if CUDA else GPUS[:1], ids=str)
def test_clipped_values_are_counted_and_break_nothing(gpu: Gpu) -> None:
    """Static scales come from the calibration images: those clip nothing, but images of three times the contrast do."""
    model, images = random_model(), torch.randn(3, 3, 64, 64)
    shape, positions = shape_of(model), weights.positions(model, shape_of(model))
    tensors, _ = weights.quantize(copy.deepcopy(model), images, "int8", static=True)
    network = Network(tensors, positions, shape, TritonKernels(gpu), DEVICE, static=True)
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
