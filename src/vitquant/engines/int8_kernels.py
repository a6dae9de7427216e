"""The kernels of an INT8 ViT's blocks: int8_kernels.cpp, compiled for this CPU, called by ctypes.

Calling them lets other Python threads run, and uses as many threads as PyTorch is set to in the calling thread.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from vitquant import files
from vitquant.engines import cache
from vitquant.errors import UnsupportedError

SOURCE = Path(__file__).with_name("int8_kernels.cpp")
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffinite-math-only", "-fassociative-math"),
)
DIGEST = 32  # bytes of SHA-256, which the loader does not mind at a library's end
Result = tuple[Tensor, Tensor, Tensor]
"""Of a linear layer: its product, float32 (rows, N), the scale of each row, float32 (rows,), and its bias, (N,)."""
Linear = Callable[[Tensor, Tensor], Result]
"""Takes values and their scales."""


def zero_point() -> int:
    """Of the quantized activations, uint8: 128, or 86 where `largest_weight_sum` leaves fewer levels to them."""
    return 128 if torch.cpu._is_vnni_supported() else 86


def largest_weight_sum() -> int | None:
    """What `rounding.sums_of_four` may hold; without VNNI, so that 16 bits hold four products; else anything.

    The 16 bits are shared so that activations and weights add about the same noise.
    """
    return None if torch.cpu._is_vnni_supported() else 32767 // (2 * zero_point() - 1)


class Kernels:
    """The linear layers and what stands between them.

    What stands between gives the next linear layer's input: values, uint8 (rows, K) around `zero_point`, and their
    scales, float32 (rows,), where rows = images × (tokens + 1): every token, then the low part of each image's class
    token.

    Raises:
        UnsupportedError: the cache does not hold the kernels, and there is no compiler; or they do not load.
        VitquantError: the cache cannot be written.
    """

    def __init__(self) -> None:
        library = _compiled()
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise UnsupportedError(f"{library} does not load ({error}): set VITQUANT_CACHE to another folder") from None

    def linear(self, weight: Tensor, scale: Tensor, bias: Tensor) -> Linear:
        """A linear layer, its weights packed for this CPU: in this module's kernel where it has one, or in oneDNN's.

        Args:
            weight: int8 (N, K), its sums of four at most `largest_weight_sum`.
            scale: of each output channel, float32 (N,).
            bias: float32 (N,).
        """
        own = hasattr(self._library, "linear") and not weight.shape[0] % self._library.linear_outputs()
        product = (self._own if own and not weight.shape[1] % 8 else self._onednn)(weight, scale)
        return lambda values, row_scale: (product(values), row_scale, bias)

    def _own(self, weight: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
        outputs, width = weight.shape
        offset = zero_point() * weight.sum(dim=1, dtype=torch.int32)
        packed = torch.empty_like(weight)
        self._library.pack(*_pointers(weight), c_int64(outputs), c_int64(width), *_pointers(packed))

        def product(values: Tensor) -> Tensor:
            acc = torch.empty(len(values), outputs)
            self._library.linear(
                *_pointers(values, packed, offset, scale),
                *map(c_int64, (len(values), width, outputs)),
                *_pointers(acc),
                _threads(),
            )
            return acc

        return product

    def _onednn(self, weight: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        zero, zero_points = zero_point(), torch.zeros(len(scale), dtype=torch.int32)

        def product(values: Tensor) -> Tensor:
            acc: Tensor = torch.ops.onednn.qlinear_pointwise(
                values, 1.0, zero, packed, scale, zero_points, None, 1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
            return acc

        return product

    def add(self, residual: Tensor, result: Result) -> None:
        """Add a linear layer's result to `residual`, (images, tokens, K), in place."""
        self._add(residual, result, None, None, 0.0, None, None)

    def add_norm(
        self, residual: Tensor, result: Result | None, gain: Tensor, shift: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Add a linear layer's result, if there is one, to `residual` in place; LayerNorm of it, quantized."""
        images, tokens, width = residual.shape
        values, scale = _empty(images, tokens, width)
        self._add(residual, result or (None, None, None), gain, shift, epsilon, values, scale)
        return values, scale

    def _add(
        self,
        residual: Tensor,
        result: Result | tuple[None, None, None],
        gain: Tensor | None,
        shift: Tensor | None,
        epsilon: float,
        values: Tensor | None,
        scale: Tensor | None,
    ) -> None:
        self._library.add_norm_quantize(
            *_pointers(residual, *result),
            *map(c_int64, residual.shape),
            *_pointers(gain, shift),
            c_float(epsilon),
            *_pointers(values, scale),
            _threads(),
        )

    def gelu(self, result: Result, centre: Tensor, inverse: Tensor, images: int, tokens: int) -> tuple[Tensor, Tensor]:
        """(GELU(a linear layer's result) - centre) × inverse, quantized."""
        width = result[0].shape[1]
        values, scale = _empty(images, tokens, width)
        self._library.gelu_quantize(
            *_pointers(*result),
            *map(c_int64, (images, tokens, width)),
            *_pointers(centre, inverse, values, scale),
            _threads(),
        )
        return values, scale

    def attention(self, result: Result, heads: int, images: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Attention over query (scaled), key and value, each a third of a linear layer's result, quantized."""
        width = result[0].shape[1] // 3
        values, scale = _empty(images, tokens, width)
        out = torch.empty(images * tokens, width)
        self._library.attention_quantize(
            *_pointers(*result),
            *map(c_int64, (images, tokens, heads, width // heads)),
            *_pointers(out, values, scale),
            _threads(),
        )
        return values, scale


def _empty(images: int, tokens: int, width: int) -> tuple[Tensor, Tensor]:
    rows = images * (tokens + 1)
    return torch.empty(rows, width, dtype=torch.uint8), torch.empty(rows)


def _pointers(*tensors: Tensor | None) -> list[c_void_p]:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return [c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]


def _threads() -> c_int:
    """PyTorch's number, told to every kernel: OpenMP's own differs in threads that PyTorch has not yet run in."""
    return c_int(torch.get_num_threads())


def _compiled() -> Path:
    """The shared library, compiled unless the cache holds it whole."""
    flags = [
        *FLAGS,
        f"-DZERO_POINT={zero_point()}",
        *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),
    ]
    library = cache.path([files.sha256(SOURCE), flags]).with_suffix(".so")
    if not _whole(library):
        with cache.lock(library):
            if not _whole(library):  # no one else has made it meanwhile
                _compile(library, flags)
    return library


def _whole(library: Path) -> bool:
    """Whether a library ends with the digest of what comes before it: a damaged one could end the process."""
    if not library.is_file():
        return False
    content = library.read_bytes()
    return content[-DIGEST:] == hashlib.sha256(content[:-DIGEST]).digest()


def _compile(library: Path, flags: list[str]) -> None:
    command = _compiler()
    with files.atomic(library) as partial:
        done = subprocess.run(
            [*command, *flags, "-o", str(partial), str(SOURCE)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise UnsupportedError(f"{shlex.join(command)} cannot compile the INT8 kernels: {reason}")
        with partial.open("ab") as file:
            file.write(bytes.fromhex(files.sha256(partial)))


def _compiler() -> list[str]:
    """The C++ compiler and its own arguments: CXX, as the shell would read it, or g++ or c++."""
    try:
        command = shlex.split(os.environ.get("CXX", "")) or ["g++" if shutil.which("g++") else "c++"]
    except ValueError as error:
        raise UnsupportedError(f"CXX={os.environ['CXX']} cannot be read ({error}): set it to a C++ compiler") from None
    if not shutil.which(command[0]):
        raise UnsupportedError("the INT8 kernels need a C++ compiler: install g++, or set CXX to one")
    return command
