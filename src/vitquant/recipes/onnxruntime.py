"""ONNX Runtime on the CPU: FP32, or INT8 weights with activations quantized at run time, per tensor.

INT8 goes through `onnxruntime.quantization.quantize_dynamic`: signed, symmetric weights with a scale per output
channel; every linear layer but the head. Attention's own products stay FP32: quantizing them too costs more
accuracy than the 2 % of time it saves. The fusions of `onnxruntime.transformers.optimizer` are left out: measured
on a ViT-S they cost 5 % in FP32 and 20 % in INT8; those that the session makes by itself are all on.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.artifact import Artifact
from vitquant.engines.require import require
from vitquant.errors import UnsupportedError
from vitquant.params import Section
from vitquant.traits import Arithmetic, Traits

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it then sends nothing, and leaves no id in the home directory
with contextlib.suppress(UnsupportedError):
    require("onnxruntime")  # now, so that no measurement of `load` counts the import

FILE = "model.onnx"


class Options(Section):
    """What params.yaml may say of this recipe."""

    precision: Literal["fp32", "int8"]
    """Of the linear layers; the head is FP32 in both."""


def traits(options: Options) -> Traits:
    """Of a recipe with these options."""
    bits = 32 if options.precision == "fp32" else 8
    arithmetic: Arithmetic = "float32" if options.precision == "fp32" else "int8"
    return Traits(
        weight_bits=bits,
        activation_bits=bits,
        arithmetic=arithmetic,
        execution="compiled",
        devices=("cpu",),
        batch_scales=options.precision == "int8",
    )


def build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the model as one ONNX file, its linear layers quantized where that is wanted."""
    version = require("onnxruntime").__version__
    from vitquant.engines.onnx_export import export  # the exporter; `load` has no use for it

    if options.precision == "fp32":
        export(fp32, directory / FILE)
        return {"onnxruntime": version}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / FILE
        export(fp32, source)
        return {"onnxruntime": version, "quantized_layers": _quantize(source, directory / FILE)}


def load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]:
    """An inference session with as many threads as PyTorch has now; calls from several threads share it."""
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave the cores to others
    session = onnxruntime.InferenceSession(artifact.path / FILE, options, providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["outputs"], {"images": images.numpy()})[0])

    return forward


def _quantize(source: Path, destination: Path) -> int:
    """Quantize the linear layers of the ONNX file `source`; their number."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)  # the exporter did both
    graph = onnx.load(prepared).graph
    weights = {initializer.name for initializer in graph.initializer}
    linear = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    quantize_dynamic(
        prepared,
        destination,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=linear,  # the head is a Gemm
        per_channel=True,
        reduce_range=False,  # 8 bits whole: VNNI adds up in 32 bits
        weight_type=QuantType.QInt8,
    )
    return len(linear)
