"""Kinds of operations, by the names that PyTorch's profiler shows."""

from typing import Any

import pytest

from vitquant.measure import profiler
from vitquant.recipes.vitquant_gpu import attention, linear, norms, patches, turing
from vitquant.recipes.vitquant_gpu.shape import Shape


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("quantized::linear_dynamic", "linear layers"),
        ("aten::addmm", "linear layers"),
        ("aten::mm", "linear layers"),
        ("aten::bmm", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::gelu", profiler.ELEMENTWISE),
        ("aten::native_layer_norm", profiler.ELEMENTWISE),
        ("aten::mkldnn_convolution", "linear layers"),
        ("aten::add", profiler.ELEMENTWISE),
        ("aten::copy_", "rest"),
    ],
)
def test_operators_by_their_names(operator: str, kind: str) -> None:
    assert profiler.kind(operator) == kind


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (patches.patches_kernel, "rest"),
        (linear.linear_kernel, "linear layers"),
        (attention.attention_kernel, "attention"),
        (norms.norm_kernel, profiler.ELEMENTWISE),
        (norms.last_norm_kernel, profiler.ELEMENTWISE),
        (norms.head_kernel, "linear layers"),
    ],
)
def test_triton_kernels_by_their_names(kernel: Any, kind: str) -> None:
    assert profiler.kind(kernel.__name__) == kind


@pytest.mark.parametrize("static", [True, False])
def test_kernels_of_cuda_by_their_names(static: bool) -> None:
    kinds = {"norm": profiler.ELEMENTWISE, "attention": "attention", "linear": "linear layers"}
    shape = Shape(257, 1, 384, 1536, 64, 14, 12, 2, ((1e-6, 1e-6),) * 12, 1e-6)
    names = turing.kernels(shape, static=static)
    assert {name.partition("<")[0] for name in names} == kinds.keys()
    for name in names:
        assert profiler.kind(f"void {name}(float2 const*, int)") == kinds[name.partition("<")[0]]
