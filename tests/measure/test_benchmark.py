import os
import shutil
import signal
from pathlib import Path

import pytest

from vitquant import artifact
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.measure import benchmark, memory
from vitquant.measure.worker import Worker
from vitquant.params import Batch, Benchmark
from vitquant.traits import FP32

PARAMS = Benchmark(warmup=1, batches=[Batch(size=1, rounds=4), Batch(size=30, rounds=2)], seed=0)


def test_every_artifact_is_measured_and_one_that_cannot_run_is_named(
    fp32: Path, prepared: Prepared, tmp_path: Path
) -> None:
    def fill(directory: Path) -> dict:
        raise UnsupportedError("no such instruction")

    artifact.write(tmp_path / "absent", artifact.open_artifact(fp32).spec, fill)
    result = benchmark.run([fp32, tmp_path / "absent"], prepared.path, PARAMS, threads=1)
    measured = result["recipes"][fp32.name]
    assert measured["traits"] == FP32.model_dump(mode="json")
    assert result["recipes"]["absent"] == {"traits": measured["traits"], "unavailable": "no such instruction"}
    assert {size: len(times) for size, times in measured["latency_ms"].items()} == {"1": 4, "30": 2}
    assert all(time > 0 for times in measured["latency_ms"].values() for time in times)
    assert measured["size_bytes"] == artifact.open_artifact(fp32).size_bytes
    assert measured["memory_bytes"]["peak"] >= measured["memory_bytes"]["model"] > 0
    assert result["environment"]["threads"] == 1
    assert result["environment"]["cores"] >= 1


def test_a_damaged_artifact_ends_the_benchmark(fp32: Path, prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(fp32, tmp_path / "bad")
    (tmp_path / "bad/model.safetensors").write_bytes(b"")
    with pytest.raises(VitquantError, match="has 0 bytes"):
        benchmark.run([tmp_path / "bad"], prepared.path, PARAMS, threads=1)


def _die(connection: object) -> None:
    os.kill(os.getpid(), signal.SIGILL)


def test_a_process_that_dies_is_unsupported_not_a_crash() -> None:
    worker = Worker(_die)
    with pytest.raises(UnsupportedError, match=f"died with exit code -{int(signal.SIGILL)}"):
        worker.receive()
    worker.close()


def test_resident_memory_follows_an_allocation() -> None:
    before = memory.in_use()
    block = bytearray(os.urandom(1)) * 50_000_000
    assert memory.in_use() - before > 40_000_000
    del block
    assert memory.in_use() - before < 10_000_000
    assert memory.peak() - before > 40_000_000
    memory.reset_peak()
    assert memory.peak() - before < 10_000_000
