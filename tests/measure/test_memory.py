import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from vitquant.measure import allocator, memory
from vitquant.measure.worker import Worker

BLOCK = 100_000_000  # bytes: more than any arena but the first can hold
PAGES = BLOCK // resource.getpagesize()


def _answer(connection: Connection, function: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    connection.send(function())


def in_new_process(function: Callable[[], Any]) -> Any:
    worker = Worker(_answer, function)
    try:
        return worker.receive()
    finally:
        worker.close()


def _faults_of_a_smaller_block() -> tuple[str, int, int, int]:
    """What is in force; page faults of a block after a larger one was freed; memory with both freed, and after `trim`.

    It is smaller because glibc before 2.38 seeks more than an aligned block takes: an equal one may not fit.
    """
    said = allocator.keep_freed()
    before = memory.in_use()
    torch.ones(BLOCK // 4)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BLOCK // 5)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    kept = memory.in_use() - before
    allocator.trim()
    return said, faults, kept, memory.in_use() - before


def test_what_is_freed_is_kept_used_again_and_given_back_when_told() -> None:
    said, faults, kept, trimmed = in_new_process(_faults_of_a_smaller_block)
    if not said.endswith("freed memory is kept"):
        pytest.skip(said)
    assert faults < PAGES / 10
    assert kept > 0.9 * BLOCK
    assert trimmed < 0.1 * BLOCK


def _growth_after_freeing() -> tuple[int, int]:
    allocator.keep_freed()
    torch.ones(BLOCK // 4)
    with memory.growth() as first:
        torch.ones(BLOCK // 4)
    with memory.growth() as second:
        torch.ones(BLOCK // 40)
    return first.peak, second.peak


def test_freed_memory_hides_no_growth_and_adds_none() -> None:
    whole, tenth = in_new_process(_growth_after_freeing)
    assert 0.9 * BLOCK < whole < 1.2 * BLOCK
    assert 0.09 * BLOCK < tenth < 0.3 * BLOCK


def _growth_of_running_pytorch() -> tuple[bool, int]:
    mapped = memory.map_libraries()
    with memory.growth() as grown:
        torch.nn.functional.gelu(torch.ones(8, 8) @ torch.ones(8, 8)).softmax(1).sort()
        torch.fft.fft(torch.ones(8))
    return mapped, grown.peak


def test_code_of_libraries_counts_as_nobodys_memory() -> None:
    mapped, grown = in_new_process(_growth_of_running_pytorch)
    if not mapped:
        pytest.skip("Linux before 5.14")
    assert grown < 10_000_000
