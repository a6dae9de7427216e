"""The kernels of Triton: each call with the tile that is right for its size."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from torch import Tensor
from triton import AsyncCompileMode

from vitquant import cpu
from vitquant.recipes.vitquant_gpu import linear, norms, patches, tiles
from vitquant.recipes.vitquant_gpu.attention import attention
from vitquant.recipes.vitquant_gpu.launch import Gpu, compiling
from vitquant.recipes.vitquant_gpu.linear import Linear


class TritonKernels:
    """What kernels.Kernels says, for GPUs of compute capability 8.0 and later."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def parts(self, images: int) -> int:
        return tiles.choose_parts(self.gpu, images)

    def compile(self, run: Callable[[], object]) -> None:
        """On all cores; Triton keeps them in its cache."""
        with ThreadPoolExecutor(cpu.cores()) as pool, AsyncCompileMode(pool), compiling():
            run()

    def copy_patches(
        self, images: Tensor, patches_: Tensor, positions: Tensor, tokens: Tensor, side: int, prefix: int
    ) -> None:
        patches.copy_patches(images, patches_, positions, tokens, side, prefix)

    def embed(self, layer: Linear, patches: Tensor, tokens: Tensor, positions: Tensor, prefix: int) -> None:
        tile = tiles.choose(self.gpu, "patches", len(patches), tokens.shape[1])
        layer(patches, tokens, linear.TOKENS, tile, self.gpu, residual=positions, prefix=prefix,
              early=tiles.early(self.gpu, len(tokens)))  # fmt: skip

    def norm(
        self, x: Tensor, gain: Tensor, shift: Tensor, epsilon: float, out: Tensor, out_scale: Tensor | None
    ) -> None:
        rows, warps = tiles.choose_rows(self.gpu, *x.shape)
        early = tiles.early(self.gpu, len(x))
        norms.norm(x, gain, shift, epsilon, out, out_scale, rows=rows, warps=warps, early=early)

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
        follows = {"qkv": linear.PLAIN, "fc1": linear.GELU if out_scale is None else linear.GELU_SCALED}
        by_group = row_scale is not None and row_scale.ndim > 1
        ladder = f"{name}-scaled" if by_group or out_scale is not None else name
        if layer.scale is None:
            ladder = "wide-16" if name in follows else "residual-16"
        tile = tiles.choose(self.gpu, ladder, len(x), len(layer.weight))
        if name == "proj" and row_scale is not None:
            tile = replace(tile, depth=x.shape[1] // len(row_scale))  # a head
        layer(x, out, follows.get(name, linear.RESIDUAL), tile, self.gpu, row_scale=row_scale, multiplier=multiplier,
              offset=offset, residual=None if name in follows else out, out_scale=out_scale, clipped=clipped,
              early=tiles.early(self.gpu, len(x)))  # fmt: skip

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
        rows, width = out.shape
        tile = tiles.choose_attention(self.gpu, rows // tokens * (width // head), tokens)
        attention(qkv, out, tokens, head, tile, self.gpu, multiplier=multiplier, out_scale=out_scale, clipped=clipped,
                  early=tiles.early(self.gpu, rows))  # fmt: skip

    def last_norm(
        self, x: Tensor, gain: Tensor, shift: Tensor, epsilon: float, sums: Tensor, tokens: int, prefix: int
    ) -> None:
        norms.last_norm(x, gain, shift, epsilon, sums, tokens, prefix, early=tiles.early(self.gpu, len(x)))

    def head(self, sums: Tensor, weight: Tensor, bias: Tensor, out: Tensor, patches: int) -> None:
        norms.head(sums, weight, bias, out, patches, early=False)
