"""The kernels of CUDA C++, for GPUs that Triton has none for: Turing, compute capability 7.5, as NVIDIA's T4.

INT8 alone. What comes before and after the blocks is PyTorch's own: a copy, a product in FP16, a norm and a product in
FP32. Tiles go by the limits of registers and shared memory; they have not been measured on a GPU of that family.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vitquant.recipes.vitquant_gpu.launch import Gpu
from vitquant.recipes.vitquant_gpu.linear import Linear
from vitquant.recipes.vitquant_gpu.shape import GROUP, Shape
from vitquant.recipes.vitquant_gpu.tiles import FILLED
from vitquant.recipes.vitquant_gpu.turing.module import Argument, Module

Tile = tuple[int, int, int, int]
"""Rows and columns of a block of threads, and its warps in each direction."""

PLAIN, GELU, GELU_SCALED, RESIDUAL = range(4)  # what follows a product, as linear.cu has it
LARGE: tuple[Tile, ...] = ((128, 128, 2, 4), (64, 64, 2, 2), (32, 64, 1, 2))
GROUPED: tuple[Tile, ...] = ((128, 64, 4, 2), (64, 64, 2, 2))  # inputs with a scale for each row and group of columns
SCALED: tuple[Tile, ...] = ((64, GROUP, 2, 4), (32, GROUP, 1, 4))  # outputs likewise
NORM_ROWS = 4  # of a block of threads of LayerNorm
QUERIES = 64  # of one of attention, of 128 threads


class Launch(Protocol):
    """How a kernel is started."""

    def __call__(self, kernel: str, grid: tuple[int, int], threads: int, *arguments: Argument) -> None:
        """Start it on the current stream."""


def tiles(follows: int, group: int) -> tuple[Tile, ...]:
    """Those that a linear layer chooses from, the largest first."""
    return SCALED if follows == GELU_SCALED else GROUPED if group else LARGE


def linear_kernel(tile: Tile, group: int, follows: int) -> str:
    """A kernel's name, in C++."""
    return f"linear<{', '.join(map(str, (*tile, group, follows)))}>"


def kernels(shape: Shape, *, static: bool) -> list[str]:
    """The names of all that a model's blocks may launch."""
    kinds = [(PLAIN, 0)]
    kinds += [(GELU, 0), (RESIDUAL, 0)] if static else [(GELU_SCALED, 0), (RESIDUAL, shape.head), (RESIDUAL, GROUP)]
    linears = [linear_kernel(tile, group, follows) for follows, group in kinds for tile in tiles(follows, group)]
    return [f"norm<{shape.width}>", f"attention<{shape.head}>", *dict.fromkeys(linears)]


class TuringKernels:
    """What kernels.Kernels says, for INT8."""

    def __init__(self, launch: Launch, processors: int) -> None:
        """Kernels that `launch` starts on a GPU of so many multiprocessors."""
        self._launch, self._processors = launch, processors

    @classmethod
    def compiled(cls, shape: Shape, gpu: Gpu, device: torch.device, *, static: bool) -> "TuringKernels":
        """Those of a model, for this device."""
        return cls(Module(kernels(shape, static=static), device), gpu.processors)

    def parts(self, images: int) -> int:  # noqa: ARG002
        """All patches of an image are summed at once."""
        return 1

    def compile(self, run: Callable[[], object]) -> None:
        """They are compiled already."""

    def copy_patches(
        self, images: Tensor, patches: Tensor, positions: Tensor, tokens: Tensor, side: int, prefix: int
    ) -> None:
        values, across = 3 * side * side, images.shape[2] // side
        by_image = patches[:, :values].unflatten(1, (3, side, side)).unflatten(0, (len(images), across, across))
        by_image.copy_(images.unflatten(3, (across, side)).unflatten(2, (across, side)).permute(0, 2, 4, 1, 3, 5))
        patches[:, values:].zero_()
        tokens.unflatten(0, (len(images), -1))[:, :prefix].copy_(positions[:prefix].expand(len(images), -1, -1))

    def embed(self, layer: Linear, patches: Tensor, tokens: Tensor, positions: Tensor, prefix: int) -> None:
        rows = positions[prefix:].float() + layer.bias
        embedded = torch.mm(patches, layer.weight.T).unflatten(0, (-1, len(rows)))
        torch.add(embedded, rows, out=tokens.unflatten(0, (len(embedded), -1))[:, prefix:])

    def norm(
        self, x: Tensor, gain: Tensor, shift: Tensor, epsilon: float, out: Tensor, out_scale: Tensor | None
    ) -> None:
        rows, width = x.shape
        self._launch(f"norm<{width}>", (-(-rows // NORM_ROWS), 1), 32 * NORM_ROWS, x, gain, shift, out, out_scale,
                     epsilon, rows)  # fmt: skip

    def linear(
        self,
        name: str,
        layer: Linear,
        x: Tensor,
        out: Tensor,
        *,
        row_scale: Tensor | None = None,
        multiplier: Tensor | None = None,
        offset: Tensor | None = None,
        out_scale: Tensor | None = None,
        clipped: Tensor | None = None,
    ) -> None:
        (rows, depth), width = x.shape, len(layer.weight)
        follows = {"qkv": PLAIN, "fc1": GELU if out_scale is None else GELU_SCALED}.get(name, RESIDUAL)
        group = 0
        if row_scale is not None and row_scale.ndim > 1:
            group = GROUP if name == "fc2" else depth // len(row_scale)  # or a head
        tile, blocks = self._tile(tiles(follows, group), rows, width)
        residual = out if follows == RESIDUAL else None
        self._launch(linear_kernel(tile, group, follows), (blocks, 1), 32 * tile[2] * tile[3], x, layer.weight,
                     row_scale, layer.scale, layer.bias, multiplier, offset, residual, out, out_scale, clipped,
                     rows, width, depth)  # fmt: skip

    def attention(
        self,
        qkv: Tensor,
        out: Tensor,
        tokens: int,
        head: int,
        *,
        multiplier: Tensor | None,
        out_scale: Tensor | None,
        clipped: Tensor | None = None,
    ) -> None:
        images, heads = len(out) // tokens, out.shape[1] // head
        self._launch(f"attention<{head}>", (images * heads, -(-tokens // QUERIES)), 2 * QUERIES, qkv, out, multiplier,
                     out_scale, clipped if out_scale is None else None, tokens, heads, images)  # fmt: skip

    def last_norm(
        self, x: Tensor, gain: Tensor, shift: Tensor, epsilon: float, sums: Tensor, tokens: int, prefix: int
    ) -> None:
        normed = F.layer_norm(x.float(), gain.shape, gain, shift, epsilon).unflatten(0, (-1, tokens))
        torch.sum(normed[:, prefix:], 1, out=sums[:, 0])
        sums[:, 1].copy_(normed[:, 0])

    def head(self, sums: Tensor, weight: Tensor, bias: Tensor, out: Tensor, patches: int) -> None:
        features = torch.cat([sums[:, 1], sums[:, 0] / patches], dim=1)
        torch.cat([F.linear(features, weight, bias), sums[:, 1]], dim=1, out=out)

    def _tile(self, choice: tuple[Tile, ...], rows: int, width: int) -> tuple[Tile, int]:
        """The first tile that keeps all multiprocessors busy, or the last; and how many of it there are."""
        counts = [(tile, -(-rows // tile[0]) * -(-width // tile[1])) for tile in choice]
        return next((each for each in counts if each[1] >= FILLED * self._processors), counts[-1])
