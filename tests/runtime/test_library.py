"""The native code as a library: how it is compiled, cached, checked and loaded, and what it says of itself."""

import hashlib
import math
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vitquant.errors import UnsupportedError, VitquantError
from vitquant.runtime import library, targets
from vitquant.runtime.library import Library


def test_what_it_says_of_itself(architecture: None, instructions: str | None) -> None:
    own = Library()
    assert own.panel % own.lanes == 0
    if instructions or not torch.cpu._is_vnni_supported():
        assert (own.zero_point, own.largest_weight_sum) == (86, 191)
    else:
        assert (own.zero_point, own.largest_weight_sum) == (128, None)
    assert instructions != "x86-64-v3" or own.lanes == 8


def test_a_stale_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    with pytest.raises(UnsupportedError, match=r"\.so has interface 2, not 3: delete it, to have it made again$"):
        Library()


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_register_rate(architecture: None, arithmetic: str) -> None:
    rate = Library().register_rate(arithmetic, threads=2)
    assert rate is not None
    assert 0 < rate < math.inf


def test_register_rate_of_bfloat16(architecture: None, instructions: str | None) -> None:
    """There is one where the code is compiled for a CPU that has such an instruction."""
    rate = Library().register_rate("bfloat16", threads=1)
    assert (rate is not None) == (not instructions and torch.cpu._is_avx512_bf16_supported())
    assert rate is None or 0 < rate < math.inf


@pytest.mark.parametrize("number", [0, 1, 2])
def test_products_in_registers_are_those_of_all_steps_and_threads(architecture: None, number: int) -> None:
    own = Library()

    def products(steps: int, threads: int) -> int:
        return own._library.multiply_in_registers(number, steps, threads)

    assert products(0, 1) == 0
    assert products(5, 1) == 5 * products(1, 1)
    assert products(5, 3) == 3 * products(5, 1)


def test_the_register_rate_is_the_highest_of_long_enough_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CPU that takes a million products on each thread, by a clock that says it took 1 ms, then 25 ms and more."""
    durations = [0.001, 0.050, 0.025, *(0.040 for _ in range(library.REPETITIONS - 2))]
    clock = accumulate((part for duration in durations for part in (duration, 0)), initial=0.0)
    asked = []

    def multiply(number, steps, threads) -> int:
        asked.append((number.value, steps.value, threads.value))
        return threads.value * 1_000_000

    monkeypatch.setattr(library, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    own = Library()
    own._library = SimpleNamespace(multiply_in_registers=multiply)
    assert own.register_rate("float32", threads=3) == pytest.approx(3_000_000 / 0.025)
    assert asked[1:] == [(1, 2 * asked[0][1], 3)] * library.REPETITIONS


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and code that compiles fast."""
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-O0"))
    return tmp_path / "compiled"


def made(cold: Path) -> Path:
    (found,) = cold.glob("*.so")
    return found


def works() -> bool:
    return Library()._library.multiply_in_registers(0, 1, 1) > 0


def test_the_warm_cache_needs_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Library()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "gone")
    assert works()


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("", "need a C.. compiler: install g.., or set CXX to one"),
        ("gone -O2", "need a C.. compiler: install g.., or set CXX to one"),
        ("'g++", "CXX='g.. cannot be read .No closing quotation.: set it to a C.. compiler"),
    ],
)
def test_without_a_compiler(cold: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, message: str) -> None:
    monkeypatch.setenv("PATH", str(cold))
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(UnsupportedError, match=message):
        Library()
    assert list(cold.glob("*.so")) == []


def test_a_compiler_with_arguments(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "env LANG=C g++")
    assert works()


def test_a_compiler_that_fails(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ --no-such-option")
    with pytest.raises(UnsupportedError, match=r"^g\+\+ --no-such-option cannot compile the INT8 kernels: .*error"):
        Library()
    assert [path.suffix for path in cold.iterdir()] == [".lock"]


def test_a_damaged_library_is_compiled_again(cold: Path) -> None:
    library._compiled(library.NATIVE)
    content = made(cold).read_bytes()
    file = made(cold)
    file.unlink()  # what is spoiled is not this process's memory
    file.write_bytes(content[: len(content) // 2])
    assert works()
    assert made(cold).read_bytes()[-32:] == content[-32:]


@pytest.mark.parametrize(
    "compiler",
    [
        "true",  # writes nothing
        "g++ -c",  # an object file
        "g++ -include /dev/null -Dinterface_version=another",  # a library of something else
        """sh -c 'for name; do test "$last" = -o && : > "$name"; last="$name"; done' sh""",  # an empty file
    ],
)
def test_a_compiler_that_makes_no_such_library(cold: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(UnsupportedError) as error:
        Library()
    assert "made no library that loads" in str(error.value)
    assert "set CXX to a C++ compiler" in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.suffix for path in cold.iterdir()] == [".lock"]


def test_a_whole_library_that_does_not_load(cold: Path) -> None:
    library._compiled(library.NATIVE)
    file = made(cold)
    file.unlink()
    file.write_bytes(b"abacus" + hashlib.sha256(b"abacus").digest())
    with pytest.raises(UnsupportedError, match=r"\.so does not load .*: set VITQUANT_CACHE to another folder"):
        Library()


@pytest.mark.parametrize(("lacking", "name"), [("", "x86-64-v4.so"), ("avx512_vnni", "x86-64-v3.so")])
def test_what_was_compiled_beforehand_needs_no_compiler(
    cold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, name: str
) -> None:
    """Nor a cache; and the CPU's flags choose."""
    if platform.machine() != "x86_64":
        pytest.skip("this CPU is of another architecture")
    monkeypatch.setattr(library, "PREBUILT", tmp_path / "prebuilt")
    library.prebuild()
    monkeypatch.setenv("CXX", "gone")
    monkeypatch.setenv("VITQUANT_CACHE", "/dev/null")
    flags = [flag for flag in targets.TARGETS[0][1] if flag != lacking]
    (tmp_path / "cpuinfo").write_text(f"flags : {' '.join(flags)}\n")
    monkeypatch.setattr(targets, "CPUINFO", tmp_path / "cpuinfo")
    assert Library().path == tmp_path / "prebuilt" / name
    (tmp_path / "cpuinfo").write_text("flags : fpu\n")
    with pytest.raises(UnsupportedError, match="is for x86-64 CPUs with AVX2"):
        Library()


def test_several_at_once_compile_once(cold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compiler = tmp_path / "calls", tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho >> {calls}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    script = """
from vitquant.runtime import library, targets
library.FLAGS += ("-O0", "-DOTHERS")
assert library.Library()._library.multiply_in_registers(0, 1, 1) > 0
"""
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "CXX": str(compiler)}
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(calls.read_text()) == 1
    monkeypatch.setenv("CXX", str(compiler))
    with ThreadPoolExecutor(4) as pool:  # and threads: with other flags, so another library
        assert all(pool.map(lambda _: works(), range(4)))
    assert len(calls.read_text()) == 2
    assert sorted(path.suffix for path in cold.iterdir()) == [".lock", ".lock", ".so", ".so"]


def test_a_cache_that_cannot_be_written(cold: Path) -> None:
    library._compiled(library.NATIVE)
    lock = made(cold).with_suffix(".lock")
    made(cold).unlink()
    lock.unlink()
    lock.mkdir()  # root may write anywhere but here
    with pytest.raises(VitquantError, match=r"\.lock cannot be written .*: set VITQUANT_CACHE to a folder"):
        Library()
