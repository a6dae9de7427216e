"""Turing's kernels compiled as C++ for the CPU: the folder emulator has what CUDA and the GPU's instructions are there.

What is tested is the kernels' own source: which value lies in which lane, what waits for what, and what is written.
"""

import ctypes
import os
import shlex
import subprocess
from pathlib import Path

from vitquant.recipes.vitquant_gpu.turing import module

EMULATOR = Path(__file__).with_name("emulator")


class Emulator:
    """What module.Module is on a GPU, with tensors on the CPU."""

    def __init__(self, kernels: list[str], folder: Path) -> None:
        """Compile the kernels in `folder`."""
        lines = [f"#include <{name}>" for name in ("run.h", *module.SOURCES)]
        lines += [
            f'extern "C" void launch_{number}(unsigned x, unsigned y, unsigned threads, void** arguments) '
            f"{{ emulator::run({kernel}, x, y, threads, arguments); }}"
            for number, kernel in enumerate(kernels)
        ]
        source, library = folder / "kernels.cpp", folder / "kernels.so"
        source.write_text("\n".join([*lines, ""]))
        command = shlex.split(os.environ.get("CXX", "g++"))
        flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-w"]
        include = [f"-I{EMULATOR}", f"-I{module.HERE}"]  # the emulator's instructions.h comes first
        subprocess.run([*command, *flags, *include, "-x", "c++", source, "-o", library], check=True)
        self._library = ctypes.CDLL(str(library))
        self._numbers = {kernel: number for number, kernel in enumerate(kernels)}

    def __call__(self, kernel: str, grid: tuple[int, int], threads: int, *arguments: module.Argument) -> None:
        """Run a kernel to its end."""
        values = [kind(value) for value, kind in map(module.typed, arguments)]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._library[f"launch_{self._numbers[kernel]}"](*map(ctypes.c_uint, (*grid, threads)), addresses)
