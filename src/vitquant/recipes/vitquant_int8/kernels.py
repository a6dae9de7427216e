"""The kernels of an INT8 ViT's blocks: kernels.cpp, compiled for this CPU, called by ctypes.

Calling them lets other Python threads run, and uses as many threads as PyTorch is set to in the calling thread.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import time
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitquant import files
from vitquant.engines import cache
from vitquant.errors import UnsupportedError

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffinite-math-only", "-fassociative-math"),
)
DIGEST = 32  # bytes of SHA-256, which the loader does not mind at a library's end
REPETITIONS, SECONDS = 10, 0.02  # of a register rate's measurement, and what each takes at least
INPUTS = 8  # what the number of a layer's inputs must be a multiple of
Quantized = tuple[Tensor, Tensor]
"""Values, uint8 (rows, K) around `zero_point`, and their scales, float32 (rows,): of each image the class token, its
low part, and the other tokens, so that rows = images × (tokens + 1)."""
RegisterArithmetic = Literal["int8", "float32", "bfloat16"]
"""What `multiply_in_registers` of kernels.cpp knows, in its order."""


def zero_point() -> int:
    """Of the quantized activations, uint8: 128, or 86 where `largest_weight_sum` leaves fewer levels to them."""
    return 128 if torch.cpu._is_vnni_supported() else 86


def largest_weight_sum() -> int | None:
    """What `rounding.sums_of_four` may hold; without VNNI, so that 16 bits hold four products; else anything.

    The 16 bits are shared so that activations and weights add about the same noise.
    """
    return None if torch.cpu._is_vnni_supported() else 32767 // (2 * zero_point() - 1)


class _Layer(ctypes.Structure):
    """`Layer` of kernels.cpp."""

    _fields_ = [
        *((name, c_void_p) for name in ("packed", "offset", "weight_scale", "bias")),
        *((name, c_int64) for name in ("width", "outputs")),
    ]


class Linear:
    """A linear layer, its weights packed for this CPU by `Kernels.linear`."""

    def __init__(self, outputs: int, packed: Tensor, offset: Tensor, weight_scale: Tensor, bias: Tensor) -> None:
        self.outputs = outputs
        self._tensors = (packed, offset, weight_scale, bias)
        self._layer = _Layer(*_pointers(*self._tensors), packed.shape[1], packed.shape[0])

    @property
    def pointer(self) -> c_void_p:
        """To what the kernels take."""
        return c_void_p(ctypes.addressof(self._layer))


class Kernels:
    """Linear layers fused with what follows them, up to the next one's input.

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
        """Pack a linear layer.

        Args:
            weight: int8 (N, K), its sums of four at most `largest_weight_sum`.
            scale: of each output channel, float32 (N,).
            bias: float32 (N,).

        Raises:
            UnsupportedError: K is no multiple of 8.
        """
        outputs, width = weight.shape
        if width % INPUTS:
            raise UnsupportedError(f"the INT8 kernels take layers with a multiple of {INPUTS} inputs, not {width}")
        missing = -outputs % self._library.panel()
        weight = F.pad(weight, (0, 0, 0, missing)) if missing else weight  # padding by nothing would copy
        packed = torch.empty_like(weight)
        self._library.pack(*_pointers(weight), *map(c_int64, weight.shape), *_pointers(packed))
        sums = torch.from_numpy(weight.numpy().sum(axis=1, dtype=np.int32))  # PyTorch's sum would copy them to int32
        offset = zero_point() * sums
        return Linear(outputs, packed, offset, *(F.pad(tensor, (0, missing)) for tensor in (scale, bias)))

    def add(self, residual: Tensor, layer: Linear, quantized: Quantized) -> None:
        """Add the layer's result to `residual`, float32 (images, tokens, N), in place."""
        self._add(residual, layer, quantized, None, None, 0.0, None)

    def add_norm(
        self,
        residual: Tensor,
        layer: Linear | None,
        quantized: Quantized | None,
        gain: Tensor,
        shift: Tensor,
        epsilon: float,
    ) -> Quantized:
        """Add the layer's result, if there is a layer, to `residual` in place; LayerNorm of it."""
        images, tokens, width = residual.shape
        result = _empty(images, tokens, width)
        self._add(residual, layer, quantized, gain, shift, epsilon, result)
        return result

    def _add(
        self,
        residual: Tensor,
        layer: Linear | None,
        quantized: Quantized | None,
        gain: Tensor | None,
        shift: Tensor | None,
        epsilon: float,
        result: Quantized | None,
    ) -> None:
        self._library.add_norm_quantize(
            *_pointers(residual),
            layer and layer.pointer,
            *_pointers(*(quantized or (None, None))),
            *map(c_int64, residual.shape),
            *_pointers(gain, shift),
            c_float(epsilon),
            *_pointers(*(result or (None, None))),
            _threads(),
        )

    def gelu(
        self, layer: Linear, quantized: Quantized, centre: Tensor, inverse: Tensor, images: int, tokens: int
    ) -> Quantized:
        """(GELU(the layer's result) - centre) × inverse."""
        result = _empty(images, tokens, layer.outputs)
        self._library.gelu_quantize(
            layer.pointer,
            *_pointers(*quantized),
            *map(c_int64, (images, tokens, layer.outputs)),
            *_pointers(centre, inverse, *result),
            _threads(),
        )
        return result

    def attention(self, layer: Linear, quantized: Quantized, heads: int, images: int, tokens: int) -> Quantized:
        """Attention over query (scaled), key and value, each a third of the layer's result."""
        width = layer.outputs // 3
        result = _empty(images, tokens, width)
        self._library.attention_quantize(
            layer.pointer,
            *_pointers(*quantized),
            *map(c_int64, (images, tokens, heads, width // heads)),
            *_pointers(*result),
            _threads(),
        )
        return result

    def register_rate(self, arithmetic: RegisterArithmetic, threads: int) -> float | None:
        """What this CPU reaches at most: products per second of `threads` threads together, all sums in registers.

        A product is a multiplication whose result is added up. INT8 ones are taken as the linear layers take them,
        float32 ones by this CPU's widest vectors, bfloat16 ones, whose sums are float32, by AVX-512. It is the highest
        of some repetitions, which take about 0.3 s altogether.

        Returns:
            None where this CPU has no instruction for them: bfloat16 without AVX512-BF16.
        """
        multiply = self._library.multiply_in_registers
        multiply.restype = c_int64
        number, steps = get_args(RegisterArithmetic).index(arithmetic), 1000
        rates: list[float] = []
        while len(rates) < REPETITIONS:
            start = time.perf_counter()
            products: int = multiply(c_int(number), c_int64(steps), c_int(threads))
            seconds = time.perf_counter() - start
            if not products:
                return None
            if seconds < SECONDS:
                steps *= 2
            else:
                rates.append(products / seconds)
        return max(rates)


def _empty(images: int, tokens: int, width: int) -> Quantized:
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
    files.private(library)
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
        partial.chmod(0o700)  # whatever the umask


def _compiler() -> list[str]:
    """The C++ compiler and its own arguments: CXX, as the shell would read it, or g++ or c++."""
    try:
        command = shlex.split(os.environ.get("CXX", "")) or ["g++" if shutil.which("g++") else "c++"]
    except ValueError as error:
        raise UnsupportedError(f"CXX={os.environ['CXX']} cannot be read ({error}): set it to a C++ compiler") from None
    if not shutil.which(command[0]):
        raise UnsupportedError("the INT8 kernels need a C++ compiler: install g++, or set CXX to one")
    return command
