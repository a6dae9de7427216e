"""Energy per image: the arithmetic on a simulated device, with its own clock; and the benchmark as it is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_rapl import domain

from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError
from vitquant.measure import cpu_benchmark, energy
from vitquant.params import Batch, Benchmark
from vitquant.results.benchmark import Measured, Memory, Trial

PARAMS = Benchmark(
    launches=1,
    max_busy_pct=100,
    max_repeats=0,
    warmup=1,
    batches=[Batch(size=4, rounds=2), Batch(size=1, rounds=2)],
    seed=0,
    energy_seconds=0.3,
)


class Device:
    """20 W when idle, and what each image takes besides; a worker, the clock and the meter as well."""

    def __init__(self, joules_per_image: float = 3.0, *, dies: bool = False) -> None:
        self.now, self.joules, self.per_image, self.asked = 0.0, 0.0, joules_per_image, list[Any]()
        self.dies = dies

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.joules += 20 * seconds

    def meter(self) -> float:
        """It moves 10 times a second."""
        return self.joules // 2 * 2

    def ask_if_alive(self, method: str, size: int, seconds: float, split: bool) -> tuple[int, float] | None:
        self.asked.append((method, size, seconds, split))
        if self.dies:
            return None
        passes = 7
        self.sleep(seconds)
        self.joules += self.per_image * passes * size
        return passes, seconds


def timed(**update: Any) -> Measured:
    """At batch 1 and 4, that split over the cores."""
    memory, trials = Memory(model=1, load_peak=1), {4: Trial(whole_ms=2.0, split_ms=1.0)}
    latency = {1: [[1.0, 1.0]], 4: [[1.0, 1.0]]}
    made = Measured(artifact_sha256="ab" * 32, size_bytes=1, memory_bytes=[memory], latency_ms=latency, trials=trials)
    return made.model_copy(update=update)


def measure(monkeypatch: pytest.MonkeyPatch, device: Device, own: Measured) -> dict[str, Any]:
    monkeypatch.setattr(energy, "time", device)
    return energy.measure(lambda: device.meter, {"own": device}, {"own": own}, 5.0, max)  # type: ignore[dict-item]


def test_what_the_device_takes_when_idle_is_no_image_s(monkeypatch: pytest.MonkeyPatch) -> None:
    device, own = Device(), timed()
    assert measure(monkeypatch, device, own)["idle_w"] == pytest.approx(20, rel=0.01)
    assert device.asked == [("repeat", 4, 5.0, True)]
    assert own.energy_mj == {4: pytest.approx(3000, rel=0.02)}


@pytest.mark.parametrize("update", [{"slow": "too slow here"}, {"latency_ms": {}}])
def test_a_recipe_that_is_not_timed_in_full_is_left_out(monkeypatch: pytest.MonkeyPatch, update: dict) -> None:
    device, own = Device(), timed(**update)
    assert "idle_w" in measure(monkeypatch, device, own)
    assert (device.asked, own.energy_mj) == ([], {})


def test_a_recipe_that_takes_less_than_idle_has_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    device, own = Device(joules_per_image=-1.0), timed()
    assert "idle_w" in measure(monkeypatch, device, own)
    assert own.energy_mj == {}


def test_a_process_that_has_died_takes_no_other_s_energy_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "time", device := Device())
    workers = {"dead": Device(dies=True), "own": device}
    found = {name: timed() for name in workers}
    assert "idle_w" in energy.measure(lambda: device.meter, workers, found, 5.0, max)  # type: ignore[arg-type]
    assert [set(own.energy_mj) for own in found.values()] == [set(), {4}]


def test_a_meter_that_stands_still_or_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    device, own = Device(), timed()
    monkeypatch.setattr(device, "meter", lambda: 5.0)
    assert measure(monkeypatch, device, own) == {"unavailable_energy": "the energy counter stands still"}

    def absent() -> energy.Meter:
        raise UnsupportedError("no meter")

    found = energy.measure(absent, {"own": device}, {"own": own}, 5.0, max)  # type: ignore[dict-item]
    assert found == {"unavailable_energy": "no meter"}
    assert (device.asked, own.energy_mj) == ([], {})


@contextmanager
def counting(counter: Path) -> Iterator[None]:
    """Have the counter show 10 J for each second of processor time that this process's children take, and 1 mW."""
    stop, folder = threading.Event(), counter.parent

    def count() -> None:
        microjoules, spent = 0, dict[int, float]()  # of each child, those that have ended among them
        while not stop.wait(0.001):
            for child in psutil.Process().children():
                with suppress(psutil.Error):  # it has just ended
                    spent[child.pid] = child.cpu_times().user
            microjoules = max(microjoules + 1, round(1e7 * sum(spent.values())))
            (folder / "next").write_text(str(microjoules))
            (folder / "next").replace(counter)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_the_cpu_s_energy_at_the_smallest_batch_size(fp32: Path, prepared: Prepared, tmp_path: Path) -> None:
    with counting(domain(tmp_path, "intel-rapl:0", "package-0", 0)):
        result = cpu_benchmark.run([fp32], prepared.path, PARAMS, 1, max_slowdown=1e9, powercap=tmp_path)
    assert result.unavailable_energy is None
    assert result.idle_w is not None
    measured = result.recipes[fp32.name].measured
    assert measured
    assert measured.energy_mj.keys() == {1}
