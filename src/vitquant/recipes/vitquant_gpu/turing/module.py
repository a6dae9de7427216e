"""CUDA C++ compiled for a GPU by NVRTC, and started.

NVRTC and NVIDIA's Python bindings for it and the driver (cuda.bindings) are what PyTorch itself depends on: neither a
CUDA toolkit nor a C++ compiler is needed. The bindings are public, documented, and of one form in all versions;
PyTorch's own way (torch.cuda._compile_kernel) is private, and compiles one kernel at a time.
"""

import base64
import ctypes
import json
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import driver, nvrtc
from torch import Tensor

from vitquant import cache, files
from vitquant.errors import UnsupportedError

HERE = Path(__file__).parent
SOURCES = ("linear.cu", "rows.cu", "attention.cu")
HEADERS = ("shared.h", "instructions.h")
Argument = Tensor | int | float | None


class Module:
    """Kernels on a device.

    Args:
        kernels: their names, in C++.
        device: of CUDA.

    Raises:
        UnsupportedError: they do not compile or load.
        VitquantError: the cache cannot be written.
    """

    def __init__(self, kernels: list[str], device: torch.device) -> None:
        major, minor = torch.cuda.get_device_capability(device)
        code, names = cached(kernels, f"sm_{major}{minor}")
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        self._context = _checked(driver.cuDevicePrimaryCtxRetain(_checked(driver.cuDeviceGet(index))))
        _checked(driver.cuCtxSetCurrent(self._context))
        self._module = _checked(driver.cuModuleLoadData(code))
        self._functions = {
            kernel: _checked(driver.cuModuleGetFunction(self._module, name.encode())) for kernel, name in names.items()
        }

    def __call__(self, kernel: str, grid: tuple[int, int], threads: int, *arguments: Argument) -> None:
        """Start a kernel on the current stream, with tensors as pointers; None is a null pointer."""
        _checked(driver.cuCtxSetCurrent(self._context))  # a thread that has done nothing on the GPU has none
        stream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
        values, types = zip(*map(typed, arguments), strict=True)
        function = self._functions[kernel]
        _checked(driver.cuLaunchKernel(function, *grid, 1, threads, 1, 1, 0, stream, (values, types), 0))


def typed(argument: Argument) -> tuple[int | float, type[Any]]:
    """An argument as C has it: its value, and the type in ctypes."""
    if argument is None or isinstance(argument, Tensor):
        return 0 if argument is None else argument.data_ptr(), ctypes.c_void_p
    return argument, ctypes.c_float if isinstance(argument, float) else ctypes.c_int


def compiled(kernels: list[str], architecture: str) -> tuple[bytes, dict[str, str]]:
    """Machine code for a GPU ("sm_75"), which need not be there, and the kernels' names in it.

    Raises:
        UnsupportedError: NVRTC refuses.
    """
    source = "".join(f"#include <{name}>\n" for name in SOURCES)
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], []))
    try:
        for kernel in kernels:
            _checked(nvrtc.nvrtcAddNameExpression(program, kernel.encode()))
        options = [f"--gpu-architecture={architecture}", "--std=c++17", f"--include-path={HERE}"]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
            _checked(nvrtc.nvrtcGetProgramLog(program, log))
            first = next((line for line in log.decode().splitlines() if "error" in line), result.name)
            raise UnsupportedError(f"NVRTC cannot compile the kernels for {architecture}: {first}")
        code = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, code))
        names = {kernel: _checked(nvrtc.nvrtcGetLoweredName(program, kernel.encode())).decode() for kernel in kernels}
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code, names


def cached(kernels: list[str], architecture: str) -> tuple[bytes, dict[str, str]]:
    """`compiled`, from the cache where that has it whole: compiling takes seconds.

    Raises:
        UnsupportedError: NVRTC refuses.
        VitquantError: the cache cannot be written, or others may write to it.
    """
    digests = {name: files.sha256(HERE / name) for name in SOURCES + HEADERS}
    place = cache.path([digests, kernels, architecture, nvrtc.nvrtcVersion()[1:]]).with_suffix(".json")
    with cache.lock(place):
        try:
            kept = json.loads(files.private(place).read_text())
        except (FileNotFoundError, ValueError):
            code, names = compiled(kernels, architecture)
            kept = {"code": base64.b64encode(code).decode(), "names": names}
            with files.atomic(place) as partial:
                partial.write_text(json.dumps(kept))
                partial.chmod(0o600)  # whatever the umask
    return base64.b64decode(kept["code"]), kept["names"]


def _checked(answer: tuple[Any, ...]) -> Any:
    """What a function of the bindings gives beside its error code.

    Raises:
        UnsupportedError: the code says that it failed.
    """
    result, *rest = answer
    if result.value:
        raise UnsupportedError(f"CUDA cannot run the kernels: {result.name}")
    return rest[0] if rest else None
