"""A timm ViT's weights read out of an ONNX graph exported from transformers' Dinov2Model.

Biases, norms and LayerScale are named initializers, `backbone.encoder.layer.N…`. The linear weights are
anonymous initializers, stored transposed and found through the name of the MatMul node that reads them.
The position embedding is two initializers, for the class token and for the patches.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor

from vitquant.errors import VitquantError
from vitquant.models import position

LAYER = "backbone.encoder.layer"
NAMED = {  # in a layer: timm's name → the graph's
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "layer_scale2.lambda1",
}
MATMULS = {  # likewise: the node that multiplies by the weight
    "attn.proj.weight": "attention/output/dense",
    "mlp.fc1.weight": "mlp/fc1",
    "mlp.fc2.weight": "mlp/fc2",
}
QKV = ("query", "key", "value")


def state_dict(file: Path, grid: int) -> dict[str, Tensor]:
    """The weights under timm's names, float32.

    Args:
        file: the ONNX graph.
        grid: patches per side that the position embedding is resized to.

    Raises:
        VitquantError: not an ONNX file, or a weight is not where it should be.
    """
    try:
        graph = onnx.load(file).graph
    except (OSError, DecodeError) as error:
        raise VitquantError(f"{file} is not a readable ONNX graph ({error}): run `dvc repro -f fetch`") from None
    initializers = {item.name: item for item in graph.initializer}
    weight_of = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMul"}

    def read(name: str) -> Tensor:
        if name not in initializers:
            raise VitquantError(f"{file} has no initializer {name!r}: this graph is not the one the study expects")
        return torch.from_numpy(np.array(numpy_helper.to_array(initializers[name]), dtype=np.float32))

    def read_matmul(node: str) -> Tensor:
        return read(weight_of.get(node, node)).T.contiguous()

    weights = {
        "cls_token": read("backbone.embeddings.cls_token"),
        "patch_embed.proj.weight": read("backbone.embeddings.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": read("backbone.embeddings.patch_embeddings.projection.bias"),
        "norm.weight": read("backbone.layernorm.weight"),
        "norm.bias": read("backbone.layernorm.bias"),
        "pos_embed": _position_embedding([read(name) for name in _position_names(initializers)], grid),
    }
    depth = sum(name.startswith(f"{LAYER}.") and name.endswith(".norm1.weight") for name in initializers)
    for n in range(depth):
        for target, source in NAMED.items():
            weights[f"blocks.{n}.{target}"] = read(f"{LAYER}.{n}.{source}")
        node = f"/backbone/encoder/layer.{n}"
        for target, source in MATMULS.items():
            weights[f"blocks.{n}.{target}"] = read_matmul(f"{node}/{source}/MatMul")
        weights[f"blocks.{n}.attn.qkv.weight"] = torch.cat(
            [read_matmul(f"{node}/attention/attention/{part}/MatMul") for part in QKV]
        )
        weights[f"blocks.{n}.attn.qkv.bias"] = torch.cat(
            [read(f"{LAYER}.{n}.attention.attention.{part}.bias") for part in QKV]
        )
    return weights


def _position_names(initializers: dict[str, onnx.TensorProto]) -> list[str]:
    """The two anonymous initializers of the position embedding: (1, 1, width), then (1, patches, width)."""
    names = {"cls": "", "patches": ""}
    for name, item in initializers.items():
        if name.startswith("onnx::") and len(item.dims) == 3 and item.dims[0] == 1:  # noqa: PLR2004
            names["cls" if item.dims[1] == 1 else "patches"] = name
    return [names["cls"], names["patches"]]


def _position_embedding(parts: list[Tensor], grid: int) -> Tensor:
    """Class-token and patch embeddings to one (1, 1 + grid², width), the patches resized by plain bicubic."""
    cls, patches = parts
    return position.resize(cls, patches, grid)
