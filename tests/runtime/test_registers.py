"""The sums of the innermost loops stay in registers: the compiler's own output says so."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from vitquant.runtime import library

MULTIPLY = re.compile(r"vpdp(busd|wssd)|vpmaddubsw|vpmaddwd")
SPILL = re.compile(r"vmov\w+ +%[xyz]mm\d+,-?(0x[0-9a-f]+)?\(%r[sb]p\)")  # a vector that is stored on the stack
JUMP = re.compile(r"\bj\w+ +([0-9a-f]+) ")
TILES = ("linear_tile", "key_tile", "value_tile", "patch_tile")


def functions(disassembly: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Of each function the name, and its instructions by address."""
    for part in disassembly.split("\n\n"):
        name, _, body = part.strip().partition(":\n")
        lines = (line.split(":", 1) for line in body.splitlines() if ":\t" in line)
        yield name, [(int(address, 16), text.strip()) for address, text in lines]


def loops(instructions: list[tuple[int, str]]) -> Iterator[list[str]]:
    """The innermost ones that multiply: from where a jump back leads to that jump, with no other jump back between."""
    for end, (address, text) in enumerate(instructions):
        target = JUMP.search(text)
        if not target or int(target[1], 16) > address:
            continue
        body = [(at, line) for at, line in instructions[: end + 1] if at >= int(target[1], 16)]
        inner = [line for at, line in body[:-1] if (jump := JUMP.search(line)) and int(jump[1], 16) <= at]
        lines = [line for _, line in body]
        if not inner and any(map(MULTIPLY.search, lines)):
            yield lines


@pytest.mark.parametrize("instructions", [None, "x86-64-v3"], indirect=True, ids=["this CPU", "AVX2"])
def test_no_sum_is_spilled(architecture: None, instructions: str | None) -> None:
    if not shutil.which("objdump"):
        pytest.skip("objdump, of binutils, is not installed")
    path = library._compiled(library.NATIVE)
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", "-j", ".text", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if not MULTIPLY.search(text):
        pytest.skip("this CPU's code is the portable one, whose sums need not stay in registers")
    found = dict.fromkeys(TILES, 0)
    for name, own in functions(text):
        tile = next((tile for tile in TILES if f"{tile}<" in name), None)
        for lines in loops(own) if tile else ():
            found[tile] += 1
            assert not list(filter(SPILL.search, lines)), name
    assert all(found.values()), found


def test_a_spill_would_be_found() -> None:
    """In a loop that stores a sum on the stack and loads it again."""
    text = """
0000000000001000 <void linear_tile<12>(int)>:
    1000:\tvpdpbusd %zmm1,%zmm2,%zmm3
    1006:\tvmovdqa64 %zmm3,0x40(%rsp)
    100c:\tvmovdqa64 0x40(%rsp),%zmm4
    1012:\tjne    1000 <void linear_tile<12>(int)>
"""
    ((_, own),) = functions(text)
    (lines,) = loops(own)
    assert len(list(filter(SPILL.search, lines))) == 1
