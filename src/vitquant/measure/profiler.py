"""Where the time of a pass goes, by kind of operation or kernel, as PyTorch's profiler sees it."""

import os
import re
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity

PASSES = 5
LINEAR = "linear layers"  # the patch embedding, a convolution, among them
ELEMENTWISE = "norms, GELU, quantization, sums"
PATTERNS = (  # a kind, and what the name of a CUDA kernel or CPU operator holds: the first that fits
    (ELEMENTWISE, r"triton_(poi|red|per)"),  # Inductor names them after all that they fuse
    ("attention", r"flash|fmha|attention|sdpa|softmax|\bbmm\b"),
    (LINEAR, r"conv|implicit|gemm|nvjet|cutlass|cublas|triton_tem|linear|addmm|_mm\b|\bmm\b|matmul|head_kernel"),
    (ELEMENTWISE, r"triton|norm|gelu|elementwise|reduce|vectorized|aten::(add|sub|mul|div|cat|mean)_?\b"),
)
REST = "rest"
KINDS = (LINEAR, "attention", ELEMENTWISE, REST)


def by_kind(forward: Callable[[], object], device: torch.device, images: int) -> dict[str, float]:
    """Milliseconds per image of each kind in KINDS, over a few passes of `images` images."""
    totals = dict.fromkeys(KINDS, 0.0)
    for name, milliseconds in by_name(forward, device).items():
        totals[kind(name)] += milliseconds / images
    return {name: round(value, 5) for name, value in totals.items()}


def by_name(forward: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Milliseconds per pass of each CUDA kernel, or CPU operator without what it calls in turn, by its name."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    if device.type == "cpu":
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it looks for a GPU, and says on stderr that there is none
    with torch.profiler.profile(activities=[activity]) as profiler:
        for _ in range(PASSES):
            forward()
        if device.type == "cuda":
            torch.cuda.synchronize()
    own_time = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"  # microseconds
    return {event.key: getattr(event, own_time) / 1000 / PASSES for event in profiler.key_averages()}


def kind(name: str) -> str:
    """The kind of a kernel or operator."""
    return next((found for found, pattern in PATTERNS if re.search(pattern, name, re.IGNORECASE)), REST)
