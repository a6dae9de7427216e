"""The native code as this CPU has it, and as ones without VNNI would."""

import ctypes
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitquant.runtime import library


@pytest.fixture(scope="package", params=[None, "x86-64-v3", "x86-64"], ids=["this CPU", "AVX2", "no AVX2"])
def instructions(request: pytest.FixtureRequest) -> str | None:
    """What the compiler is told to compile for, if not for this CPU."""
    if request.param and platform.machine() != "x86_64":
        pytest.skip("this CPU is of another architecture")
    return request.param


@pytest.fixture(scope="package")
def architecture(instructions: str | None) -> Iterator[None]:
    """All native code is compiled for that, as long as the tests of this package run."""
    with pytest.MonkeyPatch.context() as patch:
        if instructions:
            patch.setattr(library, "FLAGS", (*library.FLAGS, f"-march={instructions}"))  # the last one counts
        yield


@pytest.fixture(scope="package")
def pieces(architecture: None, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Parts of the native code by themselves: pieces.cpp."""
    file = tmp_path_factory.mktemp("pieces") / "pieces.so"
    source = Path(__file__).with_name("pieces.cpp")
    subprocess.run(
        ["g++", *library.NATIVE, *library.FLAGS, f"-I{library.SOURCES}", "-o", str(file), str(source)], check=True
    )
    return ctypes.CDLL(str(file))
