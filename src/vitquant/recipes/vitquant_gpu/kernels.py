"""The kernels that the network calls: what each family must offer, and which one a GPU gets."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from vitquant.errors import UnsupportedError
from vitquant.recipes.vitquant_gpu.launch import Gpu
from vitquant.recipes.vitquant_gpu.linear import Linear
from vitquant.recipes.vitquant_gpu.shape import Shape

AMPERE = 80
"""The compute capability from which Triton has our kernels; before, there are those of CUDA C++, for INT8 alone."""
TURING = 75
"""The lowest one: it has the instructions of those."""


class Kernels(Protocol):
    """What a block is made of, and what comes before and after the blocks. M are the tokens of all images.

    Everything runs on the current stream, and nothing waits for it. `clipped`, int64 (1,), where given, is raised
    by the number of values that the 8 bits could not hold.
    """

    def parts(self, images: int) -> int:
        """Parts in which the patches of each image are summed, in a batch of so many."""

    def compile(self, run: Callable[[], object]) -> None:
        """Compile the kernels that `run` would launch."""

    def copy_patches(
        self, images: Tensor, patches: Tensor, positions: Tensor, tokens: Tensor, side: int, prefix: int
    ) -> None:
        """Images, float32 (N, 3, H, H), to 16-bit rows of `patches`; the first `prefix` tokens to `tokens`, (M, width).

        Args:
            positions: what each token of an image starts with, 16 bits (tokens, width).
            side: of a patch, pixels.
        """

    def embed(self, layer: Linear, patches: Tensor, tokens: Tensor, positions: Tensor, prefix: int) -> None:
        """Rows of patches, by a layer of 16 bits, plus their positions to the other tokens."""

    def norm(
        self, x: Tensor, gain: Tensor, shift: Tensor, epsilon: float, out: Tensor, out_scale: Tensor | None
    ) -> None:
        """LayerNorm of 16 bits (M, width) to 8 with a scale for each row, float32 (M,), or to 16."""

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
        """Rows `x` (M, K), of the weights' type, through a block's layer.

        "qkv" gives 16 bits; "proj" and "fc2" add to the residual stream in `out`; "fc1" gives GELU × multiplier +
        offset, in the weights' type.

        Args:
            row_scale: of x, float32 (M,); for "proj" by head, (heads, M); for "fc2" by GROUP columns, (groups, M).
            multiplier: float32 (N,), as is `offset`.
            out_scale: of fc1's result where scales are found at run time, float32 (groups, M), written.
        """

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
        """Queries, keys and values, 16 bits (M, 3 × width), to `out`, (M, width); queries hold log₂(e) / √head.

        Args:
            tokens: of an image.
            head: a head's size.
            multiplier: float32 (1,), 1 over the static scale of 8 bits.
            out_scale: float32 (heads, M), written: then there is a scale for each token and head.
        """

    def last_norm(
        self, x: Tensor, gain: Tensor, shift: Tensor, epsilon: float, sums: Tensor, tokens: int, prefix: int
    ) -> None:
        """LayerNorm of the tokens to `sums`, float32 (N, parts + 1, width): patches in parts, then the class token."""

    def head(self, sums: Tensor, weight: Tensor, bias: Tensor, out: Tensor, patches: int) -> None:
        """What `last_norm` wrote to logits and class token, float32 (N, classes + width)."""


def check(capability: tuple[int, int], number: str) -> None:
    """See that a GPU has kernels for a format, a key of weights.TYPES.

    Raises:
        UnsupportedError: it has not.
    """
    found, name = (
        10 * capability[0] + capability[1],
        f"this GPU's compute capability is {capability[0]}.{capability[1]}",
    )
    if found < TURING:
        raise UnsupportedError(f"vitquant_gpu needs a GPU of compute capability 7.5 or later: {name}")
    if found < AMPERE and number != "int8":
        raise UnsupportedError(f"vitquant_gpu has format int8 alone for GPUs before 8.0: {name}")


def choose(gpu: Gpu, shape: Shape, device: torch.device, *, static: bool) -> Kernels:
    """Those for a GPU; with a lower capability than its own, the kernels of an older one, which run there too."""
    if gpu.capability < AMPERE:
        from vitquant.recipes.vitquant_gpu.turing import TuringKernels  # NVRTC is for those alone

        return TuringKernels.compiled(shape, gpu, device, static=static)
    from vitquant.recipes.vitquant_gpu.triton_kernels import TritonKernels

    return TritonKernels(gpu)
