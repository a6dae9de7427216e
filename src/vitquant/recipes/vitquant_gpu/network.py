"""The whole ViT as a row of kernels.

Seven for each block: LayerNorm, qkv, attention, proj with the residual sum, LayerNorm, fc1 with GELU, and fc2 with the
residual sum. What they hand on has 8 bits, but for queries, keys, values and the residual stream, which have 16.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitquant.recipes.vitquant_gpu.kernels import Kernels
from vitquant.recipes.vitquant_gpu.linear import Linear
from vitquant.recipes.vitquant_gpu.patches import padded_depth
from vitquant.recipes.vitquant_gpu.shape import GROUP, Shape


@dataclass(frozen=True)
class Buffers:
    """What the kernels of a batch write, M tokens in all."""

    patches: Tensor
    x: Tensor
    """The residual stream, 16 bits (M, width)."""
    normed: Tensor
    normed_scale: Tensor
    qkv: Tensor
    attended: Tensor
    attended_scale: Tensor | None
    hidden: Tensor
    hidden_scale: Tensor | None
    sums: Tensor


class Network:
    """A quantized ViT on a GPU.

    Args:
        tensors: of the artifact.
        positions: float32 (tokens, width).
        shape: of the model.
        kernels: that it calls.
        device: that the tensors are on.
        static: the artifact's scales of attention's and GELU's outputs are fixed.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        positions: Tensor,
        shape: Shape,
        kernels: Kernels,
        device: torch.device,
        *,
        static: bool,
    ) -> None:
        self.shape, self.kernels, self.device = shape, kernels, device
        self.tensors = {name: tensor.to(device).contiguous() for name, tensor in tensors.items()}
        self.type = tensors["backbone.blocks.0.attn.qkv.weight"].dtype
        self.quantized = self.type.itemsize == 1
        self.floats = torch.float16 if self.quantized else self.type
        self.scaled = self.quantized and not static
        self.positions = positions.to(device, self.floats)
        kernel = self.tensors.pop("backbone.patch_embed.proj.weight").flatten(1)
        kernel = F.pad(kernel, (0, padded_depth(shape.side) - kernel.shape[1])).to(self.floats)
        self.embedding = Linear(kernel, None, self.tensors["backbone.patch_embed.proj.bias"])
        names = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        self.layers = [[self._linear(f"backbone.blocks.{i}.{name}") for name in names] for i in range(shape.blocks)]

    def __call__(self, images: Tensor, counts: Tensor | None = None) -> Tensor:
        """Images, float32 (N, 3, H, H), to logits and class token, float32 (N, classes + width).

        Args:
            counts: int64 (blocks, 2), to which is added how many outputs of attention and of GELU were clipped.
        """
        buffers = self.buffers(len(images))
        self.begin(images, buffers)
        self.run_blocks(buffers, counts)
        return self.end(buffers)

    def compile(self, count: int) -> None:
        """Compile the kernels of a batch of so many images."""
        height = self.shape.side * round(self.shape.patches**0.5)
        self.kernels.compile(lambda: self(torch.empty(count, 3, height, height, device=self.device)))

    def buffers(self, count: int) -> Buffers:
        """For a batch of so many images."""
        shape = self.shape
        rows = count * shape.tokens

        def new(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(size, dtype=dtype, device=self.device)

        return Buffers(
            patches=new(count * shape.patches, padded_depth(shape.side), dtype=self.floats),
            x=new(rows, shape.width, dtype=self.floats),
            normed=new(rows, shape.width, dtype=self.type),
            normed_scale=new(rows, dtype=torch.float32),
            qkv=new(rows, 3 * shape.width, dtype=self.floats),
            attended=new(rows, shape.width, dtype=self.type),
            attended_scale=new(shape.width // shape.head, rows, dtype=torch.float32) if self.scaled else None,
            hidden=new(rows, shape.hidden, dtype=self.type),
            hidden_scale=new(-(-shape.hidden // GROUP), rows, dtype=torch.float32) if self.scaled else None,
            sums=new(count, self.kernels.parts(count) + 1, shape.width, dtype=torch.float32),
        )

    def begin(self, images: Tensor, buffers: Buffers) -> None:
        """Copy the images' patches, and the first tokens."""
        shape = self.shape
        self.kernels.copy_patches(images, buffers.patches, self.positions, buffers.x, shape.side, shape.prefix)

    def run_blocks(self, buffers: Buffers, counts: Tensor | None = None) -> None:
        """From the patches to the last norm."""
        shape = self.shape
        self.kernels.embed(self.embedding, buffers.patches, buffers.x, self.positions, shape.prefix)
        for index in range(shape.blocks):
            self._block(index, buffers, [None, None] if counts is None else list(counts[index].split(1)))
        weight, bias = (self.tensors[f"backbone.norm.{part}"] for part in ("weight", "bias"))
        self.kernels.last_norm(buffers.x, weight, bias, shape.last_epsilon, buffers.sums, shape.tokens, shape.prefix)

    def end(self, buffers: Buffers) -> Tensor:
        """Logits and class token, float32 (N, classes + width)."""
        shape, weight = self.shape, self.tensors["head.weight"]
        out = torch.empty(len(buffers.sums), shape.classes + shape.width, device=self.device)
        self.kernels.head(buffers.sums, weight, self.tensors["head.bias"], out, shape.patches)
        return out

    def _block(self, index: int, buffers: Buffers, counts: list[Tensor | None]) -> None:
        shape, kernels, x = self.shape, self.kernels, buffers.x
        qkv, proj, fc1, fc2 = self.layers[index]
        path = f"backbone.blocks.{index}"
        row_scale = buffers.normed_scale if self.quantized else None
        self._norm(f"{path}.norm1", shape.epsilons[index][0], buffers)
        kernels.linear("qkv", qkv, buffers.normed, buffers.qkv, row_scale=row_scale)
        kernels.attention(
            buffers.qkv, buffers.attended, shape.tokens, shape.head,
            multiplier=self.tensors.get(f"{path}.attn.multiplier"), out_scale=buffers.attended_scale,
            clipped=counts[0],
        )  # fmt: skip
        kernels.linear("proj", proj, buffers.attended, x, row_scale=buffers.attended_scale)
        self._norm(f"{path}.norm2", shape.epsilons[index][1], buffers)
        kernels.linear(
            "fc1", fc1, buffers.normed, buffers.hidden, row_scale=row_scale,
            multiplier=self.tensors.get(f"{path}.mlp.multiplier"), offset=self.tensors.get(f"{path}.mlp.offset"),
            out_scale=buffers.hidden_scale, clipped=counts[1],
        )  # fmt: skip
        kernels.linear("fc2", fc2, buffers.hidden, x, row_scale=buffers.hidden_scale)

    def _norm(self, name: str, epsilon: float, buffers: Buffers) -> None:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        self.kernels.norm(buffers.x, weight, bias, epsilon, buffers.normed, buffers.normed_scale)

    def _linear(self, name: str) -> Linear:
        weight, bias = self.tensors.pop(f"{name}.weight"), self.tensors.pop(f"{name}.bias")
        return Linear(weight, self.tensors.pop(f"{name}.scale", None), bias)
