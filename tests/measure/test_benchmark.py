import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import write_study_of_fp32
from test_worker import whole_alone

from vitquant import artifact
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.measure import benchmark, cpu_benchmark, memory, slowness
from vitquant.measure.worker import Worker
from vitquant.params import Batch, Benchmark
from vitquant.predictor import CPU
from vitquant.results import benchmark as results
from vitquant.results.benchmark import Benchmarked, Measured, Memory
from vitquant.traits import FP32

PARAMS = Benchmark(
    launches=2,
    max_busy_pct=100,
    max_repeats=0,
    warmup=1,
    batches=[Batch(size=1, rounds=4), Batch(size=30, rounds=2)],
    seed=0,
    energy_seconds=0.1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of artifacts; no energy counters lie in it."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def result(fp32: Path, prepared: Prepared, folder: Path) -> results.Benchmark:
    """Of the baseline on two cores, of a copy, which a limit that all exceed calls slow, and of what cannot run."""

    def fill(directory: Path) -> dict:
        raise UnsupportedError("no such instruction")

    paths = [folder / name for name in ("fp32", "other", "absent")]
    for path in paths[:2]:
        shutil.copytree(fp32, path)
    artifact.write(paths[2], artifact.open_artifact(fp32).spec, fill)
    return cpu_benchmark.run(paths, prepared.path, PARAMS, 2, max_slowdown=1e-9, powercap=folder)


def measured(result: results.Benchmark, name: str) -> Measured:
    found = result.recipes[name].measured
    assert found
    return found


def test_every_artifact_is_measured_and_one_that_cannot_run_is_named(result: results.Benchmark, fp32: Path) -> None:
    assert result.recipes["absent"] == Benchmarked(traits=FP32, unavailable="no such instruction")
    baseline = measured(result, "fp32")
    assert rounds(baseline) == {1: [4, 4], 30: [2, 2]}
    assert [len(times) for times in baseline.from_file_ms] == [4, 4]
    assert baseline.size_bytes == artifact.open_artifact(fp32).size_bytes
    assert baseline.artifact_sha256 == artifact.open_artifact(fp32).sha256
    assert len(baseline.memory_bytes) == 2
    for taken in baseline.memory_bytes:
        assert taken.load_peak >= taken.model > 0
        assert taken.peak.keys() == {1, 30}
        assert taken.peak[30] > taken.peak[1]
    assert result.environment.threads == 2
    assert result.register_products_per_s.keys() >= {"int8", "float32"}
    assert result.products_per_image > 1e6
    assert len(result.conditions) == 2
    assert all(launch.seconds > 0 for launch in result.conditions)


def rounds(measured: Measured) -> dict[int, list[int]]:
    return {size: [len(times) for times in launches] for size, launches in measured.latency_ms.items()}


def test_a_batch_is_timed_the_faster_way_of_two(result: results.Benchmark) -> None:
    """Both are tried in a launch before the others where every core can have an image, and those do as it found."""
    baseline = measured(result, "fp32")
    assert baseline.trials.keys() == {30}
    assert baseline.trials[30].is_split == (baseline.trials[30].split_ms < baseline.trials[30].whole_ms)
    assert not baseline.is_split(1)


def test_a_slow_recipe_is_timed_briefly(result: results.Benchmark) -> None:
    """Any recipe is, by a limit that all exceed; the baseline is always timed in full."""
    other = measured(result, "other")
    assert rounds(other) == {1: [slowness.PASSES]}  # of the first launch, beside the baseline's
    assert len(other.memory_bytes) == 1
    assert "set max_slowdown, now 1e-09, higher to have it measured in full" in (other.slow or "")
    assert not measured(result, "fp32").slow


def test_a_cpu_without_counters_is_measured_without_energy(result: results.Benchmark, folder: Path) -> None:
    assert result.unavailable_energy == f"this kernel offers no RAPL counters ({folder})"
    assert result.idle_w is None
    assert measured(result, "fp32").energy_mj == {}


@pytest.fixture
def busy() -> Iterator[float]:
    """Somebody else's process takes a core; the percentage of the cores' time that this is at least, half of it."""
    started = subprocess.run(["sh", "-c", "yes > /dev/null & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
    yield 50 / (os.cpu_count() or 1)
    os.kill(int(started.stdout), signal.SIGKILL)


def test_a_launch_on_a_busy_machine_is_repeated_as_often_as_allowed(
    fp32: Path, prepared: Prepared, busy: float
) -> None:
    bound = PARAMS.model_copy(
        update={"max_busy_pct": busy, "max_repeats": 1, "batches": [Batch(size=1, rounds=300)], "launches": 1}
    )
    result = cpu_benchmark.run([fp32], prepared.path, bound, threads=1, max_slowdown=1e9)
    assert [launch.busy_pct > busy for launch in result.repeated] == [True]
    assert len(result.conditions) == 1
    assert rounds(measured(result, fp32.name)) == {1: [300]}
    assert measured(result, fp32.name).trials == {}  # on one core there is one way


def test_a_damaged_artifact_ends_the_benchmark(fp32: Path, prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(fp32, tmp_path / "bad")
    (tmp_path / "bad/model.safetensors").write_bytes(b"")
    with pytest.raises(VitquantError, match="has 0 bytes"):
        cpu_benchmark.run([tmp_path / "bad"], prepared.path, PARAMS, threads=1, max_slowdown=1e9)


@pytest.mark.parametrize("names", [["fp32", "other"], ["fp32"]])
def test_a_process_that_dies_in_a_launch_ends_its_recipe_or_the_baseline_all(
    fp32: Path, prepared: Prepared, tmp_path: Path, names: list[str]
) -> None:
    """The process of the last recipe is killed after the first round."""
    paths = [shutil.copytree(fp32, tmp_path / name) for name in names]
    others = set(psutil.Process().children())  # of this test run, of which some are workers of pools

    def kill() -> None:
        started = [child for child in psutil.Process().children() if child not in others]
        workers = [child for child in started if "spawn_main" in " ".join(child.cmdline())]
        if len(workers) == len(paths):
            max(workers, key=lambda worker: (worker.create_time(), worker.pid)).kill()

    def run() -> benchmark.Recipes:
        once = PARAMS.model_copy(update={"launches": 1})
        return benchmark.run(paths, prepared.path, once, 1, CPU, between=kill).recipes

    if names == ["fp32"]:
        with pytest.raises(VitquantError, match="fp32, the baseline of every ratio, could not be measured: its proc"):
            run()
        return
    recipes = run()
    assert recipes["other"] == Benchmarked(traits=FP32, unavailable="its process died with exit code -9")
    left = recipes["fp32"].measured
    assert left
    assert rounds(left) == {1: [4], 30: [2]}


def test_a_batch_size_that_fails_in_a_later_launch_is_left_out_of_all() -> None:
    def launch(sizes: list[int], failed: dict[int, str]) -> benchmark.Recipes:
        own = Measured(
            artifact_sha256="ab" * 32,
            size_bytes=1,
            memory_bytes=[Memory(model=1, load_peak=1)],
            latency_ms={size: [[1.0, 2.0]] for size in sizes},
            unavailable_batches=failed,
        )
        return {"own": Benchmarked(traits=FP32, measured=own)}

    done = launch([1, 30], {})
    benchmark.add(done, launch([1], {30: "out of memory"}))
    benchmark.add(done, launch([1, 30], {}))
    own = done["own"].measured
    assert own
    assert rounds(own) == {1: [2, 2, 2]}
    assert own.unavailable_batches == {30: "out of memory"}
    benchmark.add(done, {"own": Benchmarked(traits=FP32, unavailable="it died")})
    assert done["own"] == Benchmarked(traits=FP32, unavailable="it died")


def test_a_batch_that_cannot_be_split_is_timed_whole() -> None:
    own = Measured(artifact_sha256="ab" * 32, size_bytes=1, memory_bytes=[Memory(model=1, load_peak=1)], latency_ms={})
    worker = Worker(whole_alone)
    launch = benchmark.Launch("trial", {"own": worker}, {"own": Benchmarked(traits=FP32, measured=own)})
    assert benchmark._trial(launch, "own", 8, [False, True], 1, 1) == {False: 500.0}
    assert own.unavailable_batches == {}
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


def test_control_c_ends_the_benchmark_in_one_line_and_its_processes(
    fp32: Path, prepared: Prepared, tmp_path: Path
) -> None:
    write_study_of_fp32(tmp_path, fp32, rounds=10**9)
    command = [sys.executable, "-c", "from vitquant.cli import main; main()", "benchmark"]
    command += ["--artifacts", "artifacts", "--data", str(prepared.path), "--out", "benchmark.json"]
    run = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert run.stderr
    seen = b""
    while b": time" not in seen:
        more = run.stderr.read(1)
        assert more, seen  # there is none where it has ended
        seen += more
    workers = psutil.Process(run.pid).children(recursive=True)
    assert workers
    os.killpg(run.pid, signal.SIGINT)
    _, rest = run.communicate()
    assert run.returncode == 1
    assert b"Traceback" not in rest
    assert rest.endswith(b"\nAborted!\n")
    psutil.wait_procs(workers, timeout=60)
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert not list(tmp_path.glob("*benchmark.json*"))
