"""Recipes of every method, what each may differ from FP32, and where it runs: the table of test_contract.py."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitquant.params import Recipe

Built = Callable[[str], Path]
Run = Callable[..., Any]


@dataclass(frozen=True)
class Example:
    """A recipe that the tests build once, and what is expected of it."""

    recipe: Recipe
    tolerance: float
    """The largest difference of its logits to FP32's, relative to the largest of FP32's."""
    other_batch: float | None = 1e-4
    """Likewise, of an image's logits in a batch to those of the image alone; None where that is not tried."""
    apart: bool = False
    """Whether its engine is kept out of the tests' own process, which a crash would end."""
    needs: str = ""
    """What some CPUs lack, in the words of the reason for which it is unavailable there; its tests are skipped then."""


def recipe(method: str, **options: object) -> Recipe:
    """As params.yaml gives it."""
    return Recipe.model_validate({"method": method, **options})


def eight_bit(**options: object) -> Recipe:
    """INT8 with dynamic activations, but for `options`."""
    plain = {"weights": "int8", "activations": "dynamic", "dtype": "float16"}
    return recipe("eight_bit", **(plain | options))


def floating_point(dtype: str, *, compile: bool = False) -> Recipe:
    """The backbone in `dtype`."""
    return recipe("floating_point", dtype=dtype, compile=compile)


def dynamic_int8(*, per_channel: bool) -> Recipe:
    """The head stays FP32."""
    return recipe("dynamic_int8", per_channel=per_channel, keep_float=["head"], engine="auto")


def openvino(precision: str, inference_precision: str = "f32") -> Recipe:
    """All that is not quantized is FP32."""
    return recipe("openvino", precision=precision, inference_precision=inference_precision)


def zentorch(precision: str, tolerance: float) -> Example:
    """In a process of its own, since importing zentorch changes PyTorch."""
    return Example(
        recipe("zentorch", precision=precision), tolerance, other_batch=tolerance, apart=True, needs="AVX-512"
    )


# Tolerances leave room for CPUs without VNNI, whose activations have 7 bits. A method's first example is also built
# twice (OpenVINO's by test_openvino.py, in another process). No other batch is tried where that would compile once
# more, and another example of the method, or of its engine, shows it.
EXAMPLES = {
    "compiled-fp32": Example(recipe("compiled", dtype="float32"), 1e-4),
    "dynamic-int8": Example(dynamic_int8(per_channel=False), 0.2, other_batch=0.2),
    "dynamic-int8-per-channel": Example(dynamic_int8(per_channel=True), 0.2, other_batch=0.2),
    "dynamic-int8-smooth": Example(recipe("dynamic_int8_smooth", engine="auto"), 0.1, other_batch=0.1),
    "eight-bit-int8": Example(eight_bit(), 0.1, other_batch=0.1),
    "eight-bit-int8-weight-only": Example(eight_bit(activations="float"), 0.1, other_batch=None),
    "eight-bit-fp8": Example(eight_bit(weights="float8", dtype="bfloat16"), 0.3, other_batch=None),
    "floating-point-fp32": Example(floating_point("float32"), 1e-4),
    "floating-point-fp32-compiled": Example(floating_point("float32", compile=True), 1e-4, other_batch=None),
    "floating-point-tf32": Example(floating_point("tfloat32"), 2e-3, other_batch=2e-3),  # on a GPU; on the CPU: FP32
    "floating-point-fp16": Example(floating_point("float16"), 0.03, other_batch=0.03),
    "floating-point-bf16-compiled": Example(floating_point("bfloat16", compile=True), 0.1, other_batch=None),
    "floating-point-bf16-whole": Example(
        recipe("floating_point", dtype="bfloat16", compile=True, whole=True, patches="product"), 0.1, other_batch=None
    ),
    "fp32": Example(recipe("fp32"), 1e-4),
    "int4-weight-only": Example(recipe("int4_weight_only"), 0.3, other_batch=0.1),
    "int8-weight-only": Example(recipe("int8_weight_only"), 0.1, other_batch=0.1),
    "onnxruntime-int8": Example(recipe("onnxruntime", precision="int8"), 0.2, other_batch=0.2),
    "onnxruntime-fp32": Example(recipe("onnxruntime", precision="fp32"), 1e-4),
    "openvino-int8": Example(openvino("int8"), 0.2, apart=True),
    "openvino-fp32": Example(openvino("fp32"), 1e-4, apart=True),
    "static-int8": Example(recipe("static_int8"), 0.3),
    "torchao-int8-dynamic": Example(recipe("torchao_int8_dynamic"), 0.1, other_batch=0.1),
    "vitquant-gpu-int8": Example(recipe("vitquant_gpu", format="int8", scales="static"), 0.1, other_batch=0.1),
    "vitquant-gpu-int8-dynamic": Example(recipe("vitquant_gpu", format="int8", scales="dynamic"), 0.1, other_batch=0.1),
    "vitquant-gpu-fp8": Example(recipe("vitquant_gpu", format="float8", scales="static"), 0.3, other_batch=0.1),
    "vitquant-gpu-bf16": Example(recipe("vitquant_gpu", format="bfloat16", scales="static"), 0.1, other_batch=0.1),
    "vitquant-int8": Example(recipe("vitquant_int8"), 0.1),
    "zentorch-int8": zentorch("int8", 0.1),
    "zentorch-bf16": zentorch("bf16", 0.05),
}
FIRST = list({example.recipe.method: name for name, example in reversed(EXAMPLES.items())}.values())
