"""The native code under native/, compiled for this CPU, called by ctypes.

Calling it lets other Python threads run.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import time
from ctypes import c_int, c_int64
from pathlib import Path
from typing import Literal, get_args

from vitquant import cache, files
from vitquant.errors import UnsupportedError
from vitquant.runtime import targets

SOURCES = Path(__file__).with_name("native")
PREBUILT = Path(__file__).with_name("prebuilt")  # what `prebuild` makes, for CPUs of each kind
INTERFACE = 2  # the version in interface.cpp, of the functions and structures that both sides have
FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),  # sums are not reordered: tiles agree bit for bit
)
NATIVE = ("-march=native",)  # for this CPU
DIGEST = 32  # bytes of SHA-256, which the loader does not mind at a library's end
REPETITIONS, SECONDS = 10, 0.02  # of a register rate's measurement, and what each takes at least
RegisterArithmetic = Literal["int8", "float32", "bfloat16"]
"""What `multiply_in_registers` of interface.cpp knows, in its order."""


class Library:
    """The native code.

    Args:
        target: the compiler's arguments that say for which CPU.

    Raises:
        UnsupportedError: the cache does not hold it, and there is no compiler; or it does not load, or is stale; or
            it was compiled beforehand, and not for such a CPU.
        VitquantError: the cache cannot be written.
    """

    def __init__(self, target: tuple[str, ...] = NATIVE) -> None:
        self.path = path = _prebuilt() if target == NATIVE and PREBUILT.is_dir() else _compiled(target)
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise UnsupportedError(f"{path} does not load ({error}): set VITQUANT_CACHE to another folder") from None
        found = self._constant("interface_version")
        if found != INTERFACE:
            raise UnsupportedError(f"{path} has interface {found}, not {INTERFACE}: delete it, to have it made again")
        self.lanes = self._constant("lanes")
        """Numbers of 32 bits in a vector."""
        self.panel = self._constant("panel")
        """Output channels whose weights are packed together."""
        self.zero_point = self._constant("zero_point")
        """Of the quantized activations, uint8: 128, or 86 where `largest_weight_sum` leaves fewer levels to them."""
        self.forward = self._library.forward_images
        """forward_images(network, pixels, outputs, images, threads), see interface.cpp."""
        self.forward.restype = None

    def _constant(self, name: str) -> int:
        function = self._library[name]
        function.restype = c_int64
        return int(function())

    @property
    def largest_weight_sum(self) -> int | None:
        """What `packing.sums_of_four` may hold; without VNNI, so that 16 bits hold four products; else anything."""
        return None if self.zero_point == 128 else 32767 // (2 * self.zero_point - 1)  # noqa: PLR2004

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


def prebuild() -> None:
    """Compile for all of `targets.TARGETS`: from then on this installation needs no compiler, nor a cache.

    Raises:
        UnsupportedError, VitquantError: as `Library`.
    """
    with files.atomic(PREBUILT) as partial:
        partial.mkdir()
        for target, _ in targets.TARGETS:
            shutil.copyfile(_compiled(target), partial / _file(target))


def _prebuilt() -> Path:
    return PREBUILT / _file(targets.best()[0])


def _file(target: tuple[str, ...]) -> str:
    return f"{target[0].removeprefix('-march=')}.so"


def _compiled(target: tuple[str, ...]) -> Path:
    """The shared library, compiled unless the cache holds it whole."""
    flags = [*target, *FLAGS, *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else [])]
    digests = {source.name: files.sha256(source) for source in sorted(SOURCES.iterdir()) if source.is_file()}
    library = cache.path([digests, flags]).with_suffix(".so")
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
            [*command, *flags, "-o", str(partial), str(SOURCES / "interface.cpp")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise UnsupportedError(f"{shlex.join(command)} cannot compile the INT8 kernels: {reason}")
        with partial.open("ab") as file:
            file.write(bytes.fromhex(files.sha256(partial)))
        partial.chmod(0o700)  # whatever the umask
        try:
            ctypes.CDLL(str(partial))["interface_version"]
        except (OSError, AttributeError) as error:
            raise UnsupportedError(
                f"{shlex.join(command)} made no library that loads ({error}): set CXX to a C++ compiler, or "
                "VITQUANT_CACHE to a folder that programs run from"
            ) from None


def _compiler() -> list[str]:
    """The C++ compiler and its own arguments: CXX, as the shell would read it, or g++ or c++."""
    try:
        command = shlex.split(os.environ.get("CXX", "")) or ["g++" if shutil.which("g++") else "c++"]
    except ValueError as error:
        raise UnsupportedError(f"CXX={os.environ['CXX']} cannot be read ({error}): set it to a C++ compiler") from None
    if not shutil.which(command[0]):
        raise UnsupportedError("the INT8 kernels need a C++ compiler: install g++, or set CXX to one")
    return command
