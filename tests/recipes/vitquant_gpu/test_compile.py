"""Every kernel compiled for each GPU family, on any machine: registers, spills, and what the card's memory allows."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from vitquant.models.vit import ViTClassifier
from vitquant.recipes.vitquant_gpu import weights
from vitquant.recipes.vitquant_gpu.launch import Gpu, compiling
from vitquant.recipes.vitquant_gpu.network import Network
from vitquant.recipes.vitquant_gpu.shape import shape_of
from vitquant.recipes.vitquant_gpu.triton_kernels import TritonKernels

SHARED = {80: 163, 86: 99, 89: 99, 90: 227}  # KB a program may have: NVIDIA, CUDA Programming Guide, table 30
PROCESSORS = {80: 108, 86: 72, 89: 58, 90: 132}  # of A100, A10, L4 and H100
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
SPILLED = 256  # bytes of a thread's stack at most: what does not fit into 255 registers


class Driver:
    """What Triton asks of a GPU's driver before it compiles; there is no GPU."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it has compiled by device

    def get_current_stream(self, _: int) -> int:
        return 0


def compiled(capability: int, number: str, images: int, *, static: bool) -> list[Any]:
    """The kernels of one block of ViT-S/14, and those before and after the blocks."""
    with torch.device("meta"):
        model = ViTClassifier("vit_small_patch14_dinov2", 224, 8)
    shape = replace(shape_of(model), blocks=1)
    tensors = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype)
        for name, tensor in weights.expected(model, number, static=static).items()
    }
    gpu = Gpu(capability, PROCESSORS[capability])
    positions = torch.empty(shape.tokens, shape.width)
    network = Network(tensors, positions, shape, TritonKernels(gpu), torch.device("cpu"), static=static)
    with pytest.MonkeyPatch.context() as patch, compiling() as kernels:
        patch.setattr(driver, "_active", Driver(capability))
        network(torch.empty(images, 3, 224, 224))
    return kernels


@pytest.mark.parametrize(
    ("capability", "number", "static", "images"),
    [
        (80, "int8", True, 32),
        (80, "int8", False, 1),
        (86, "int8", True, 1),
        (86, "int8", False, 32),
        (89, "int8", False, 32),
        (89, "float8", True, 1),
        (90, "int8", True, 32),
        (90, "int8", False, 1),
        (90, "float8", True, 1),
    ],
)
def test_the_kernels_fit_the_card(capability: int, number: str, static: bool, images: int, tmp_path: Path) -> None:
    kernels = compiled(capability, number, images, static=static)
    assert len(kernels) == 11
    for kernel in {id(kernel.asm): kernel for kernel in kernels}.values():
        name = kernel.metadata.name
        (tmp_path / "cubin").write_bytes(kernel.asm["cubin"])
        command = [CUOBJDUMP, "-res-usage", tmp_path / "cubin"]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK"))
        assert registers * 32 * kernel.metadata.num_warps <= 65536, name
        assert stack <= SPILLED, name
        assert kernel.metadata.shared <= SHARED[capability] * 1024, name
        if name in ("linear_kernel", "attention_kernel"):
            assert ("wgmma" if capability == 90 else "mma.sync") in kernel.asm["ptx"]
            assert ("cp.async.bulk.tensor" in kernel.asm["ptx"]) == (capability == 90)
