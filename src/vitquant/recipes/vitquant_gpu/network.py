"""The whole ViT as a row of kernels.

Seven for each block: LayerNorm, qkv, attention, proj with the residual sum, LayerNorm, fc1 with GELU, and fc2 with the
residual sum. What they hand on has 8 bits, but for queries, keys, values and the residual stream, which have 16.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from triton import AsyncCompileMode

from vitquant import cpu
from vitquant.recipes.vitquant_gpu import linear, norms, patches, tiles
from vitquant.recipes.vitquant_gpu.attention import attention
from vitquant.recipes.vitquant_gpu.launch import Gpu, compiling
from vitquant.recipes.vitquant_gpu.linear import Linear
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
        gpu: that the kernels are for.
        device: that the tensors are on.
        static: the artifact's scales of attention's and GELU's outputs are fixed.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        positions: Tensor,
        shape: Shape,
        gpu: Gpu,
        device: torch.device,
        *,
        static: bool,
    ) -> None:
        self.shape, self.gpu, self.device = shape, gpu, device
        self.tensors = {name: tensor.to(device).contiguous() for name, tensor in tensors.items()}
        self.type = tensors["backbone.blocks.0.attn.qkv.weight"].dtype
        self.quantized = self.type.itemsize == 1
        self.floats = torch.float16 if self.quantized else self.type
        self.scaled = self.quantized and not static
        self.positions = positions.to(device, self.floats)
        kernel = self.tensors.pop("backbone.patch_embed.proj.weight").flatten(1)
        kernel = F.pad(kernel, (0, patches.padded_depth(shape.side) - kernel.shape[1])).to(self.floats)
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
        """Compile the kernels of a batch of so many images, on all cores; Triton keeps them in its cache."""
        with ThreadPoolExecutor(cpu.cores()) as pool, AsyncCompileMode(pool), compiling():
            height = self.shape.side * round(self.shape.patches**0.5)
            self(torch.empty(count, 3, height, height, device=self.device))

    def buffers(self, count: int) -> Buffers:
        """For a batch of so many images."""
        shape = self.shape
        rows = count * shape.tokens

        def new(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(size, dtype=dtype, device=self.device)

        return Buffers(
            patches=new(count * shape.patches, patches.padded_depth(shape.side), dtype=self.floats),
            x=new(rows, shape.width, dtype=self.floats),
            normed=new(rows, shape.width, dtype=self.type),
            normed_scale=new(rows, dtype=torch.float32),
            qkv=new(rows, 3 * shape.width, dtype=self.floats),
            attended=new(rows, shape.width, dtype=self.type),
            attended_scale=new(shape.width // shape.head, rows, dtype=torch.float32) if self.scaled else None,
            hidden=new(rows, shape.hidden, dtype=self.type),
            hidden_scale=new(-(-shape.hidden // GROUP), rows, dtype=torch.float32) if self.scaled else None,
            sums=new(count, tiles.choose_parts(self.gpu, count) + 1, shape.width, dtype=torch.float32),
        )

    def begin(self, images: Tensor, buffers: Buffers) -> None:
        """Copy the images' patches, and the first tokens."""
        patches.copy_patches(
            images, buffers.patches, self.positions, buffers.x, self.shape.side, self.shape.prefix, early=False
        )

    def run_blocks(self, buffers: Buffers, counts: Tensor | None = None) -> None:
        """From the patches to the last norm."""
        shape, gpu, rows = self.shape, self.gpu, len(buffers.x)
        early = tiles.early(gpu, rows)
        tile = tiles.choose(gpu, "patches", len(buffers.patches), shape.width)
        self.embedding(
            buffers.patches, buffers.x, linear.TOKENS, tile, gpu,
            residual=self.positions, prefix=shape.prefix, early=early,
        )  # fmt: skip
        for index in range(shape.blocks):
            self._block(index, buffers, early, [None, None] if counts is None else list(counts[index].split(1)))
        weight, bias = (self.tensors[f"backbone.norm.{part}"] for part in ("weight", "bias"))
        norms.last_norm(
            buffers.x, weight, bias, shape.last_epsilon, buffers.sums, shape.tokens, shape.prefix, early=early
        )

    def end(self, buffers: Buffers) -> Tensor:
        """Logits and class token, float32 (N, classes + width)."""
        shape, weight = self.shape, self.tensors["head.weight"]
        out = torch.empty(len(buffers.sums), shape.classes + shape.width, device=self.device)
        norms.head(buffers.sums, weight, self.tensors["head.bias"], out, shape.patches, early=False)
        return out

    def _block(self, index: int, buffers: Buffers, early: bool, counts: list[Tensor | None]) -> None:
        shape, gpu, x = self.shape, self.gpu, buffers.x
        qkv, proj, fc1, fc2 = self.layers[index]
        path = f"backbone.blocks.{index}"
        row_scale = buffers.normed_scale if self.quantized else None
        self._norm(f"{path}.norm1", shape.epsilons[index][0], buffers, early)
        qkv(buffers.normed, buffers.qkv, linear.PLAIN, self._tile("qkv", len(x), 3 * shape.width), gpu,
            row_scale=row_scale, early=early)  # fmt: skip
        attention(
            buffers.qkv, buffers.attended, shape.tokens, shape.head,
            tiles.choose_attention(gpu, len(x) // shape.tokens * (shape.width // shape.head), shape.tokens), gpu,
            multiplier=self.tensors.get(f"{path}.attn.multiplier"), out_scale=buffers.attended_scale,
            clipped=counts[0], early=early,
        )  # fmt: skip
        proj(buffers.attended, x, linear.RESIDUAL, self._tile("proj", len(x), shape.width), gpu,
             row_scale=buffers.attended_scale, residual=x, early=early)  # fmt: skip
        self._norm(f"{path}.norm2", shape.epsilons[index][1], buffers, early)
        fc1(buffers.normed, buffers.hidden, linear.GELU_SCALED if self.scaled else linear.GELU,
            self._tile("fc1", len(x), shape.hidden), gpu, row_scale=row_scale,
            multiplier=self.tensors.get(f"{path}.mlp.multiplier"), offset=self.tensors.get(f"{path}.mlp.offset"),
            out_scale=buffers.hidden_scale, clipped=counts[1], early=early)  # fmt: skip
        fc2(buffers.hidden, x, linear.RESIDUAL, self._tile("fc2", len(x), shape.width), gpu,
            row_scale=buffers.hidden_scale, residual=x, early=early)  # fmt: skip

    def _norm(self, name: str, epsilon: float, buffers: Buffers, early: bool) -> None:
        rows, warps = tiles.choose_rows(self.gpu, len(buffers.x), self.shape.width)
        norms.norm(
            buffers.x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], epsilon,
            buffers.normed, buffers.normed_scale, rows=rows, warps=warps, early=early,
        )  # fmt: skip

    def _tile(self, layer: str, rows: int, width: int) -> tiles.Tile:
        if not self.quantized:
            return tiles.choose(self.gpu, "wide-16" if layer in ("qkv", "fc1") else "residual-16", rows, width)
        if not self.scaled or layer == "qkv":
            return tiles.choose(self.gpu, layer, rows, width)
        tile = tiles.choose(self.gpu, f"{layer}-scaled", rows, width)
        return replace(tile, depth=self.shape.head) if layer == "proj" else tile

    def _linear(self, name: str) -> Linear:
        weight, bias = self.tensors.pop(f"{name}.weight"), self.tensors.pop(f"{name}.bias")
        return Linear(weight, self.tensors.pop(f"{name}.scale", None), bias)
