"""The FP32 classifier as an ONNX file, for the engines that read one."""

import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from vitquant.artifact import WEIGHTS_FILE, Artifact
from vitquant.errors import UnsupportedError
from vitquant.models.loading import load_model

INPUT, OUTPUT = "images", "outputs"
OPSET = 20  # the first with GELU as one operator
LARGEST = 2**31 - 2**24  # bytes of weights: a file holds 2 GiB, and the graph takes its part


def export(fp32: Artifact, file: Path) -> None:
    """Write the FP32 artifact as one ONNX file; the batch dimension is free.

    The graph maps `images`, float32 (N, 3, H, W), to `outputs`, the logits and the class token, float32 (N, C + width).
    It holds the weights, and no trace of where it was made, so that the same weights give the same file.

    Raises:
        UnsupportedError: the weights are too large for one file.
    """
    size = (fp32.path / WEIGHTS_FILE).stat().st_size
    if size > LARGEST:
        raise UnsupportedError(f"an ONNX file holds 2 GiB at most, and this model's weights are {size / 2**30:.2f} GiB")
    model = load_model(fp32)
    for part in model.backbone.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # attention as plain MatMul and Softmax, which every engine knows and fuses
    side = fp32.spec.preprocessing.crop
    example = torch.zeros(2, 3, side, side)  # 2: an example of 1 would fix the batch dimension
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    onnx.save(proto, file)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes: stack traces with the paths of this machine, half a megabyte."""
    holders: list[Any] = [proto, proto.graph, *proto.graph.node, *proto.graph.initializer]
    for holder in [*holders, *proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
