"""Energy per image, of the CPU or a GPU, above what the device takes when nothing runs."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tqdm import tqdm

from vitquant.errors import UnsupportedError
from vitquant.measure.worker import Worker
from vitquant.results.benchmark import Measured

Meter = Callable[[], float]
"""Joules that the device has consumed since some time; UnsupportedError where that is not known."""
PATIENCE = 3.0  # seconds for a counter to move: a GPU's does every 20 to 100 ms, a CPU's every 1 ms
POLL = 0.001  # seconds


def measure(
    start: Callable[[], Meter],
    workers: Mapping[str, Worker],
    recipes: Mapping[str, Measured],
    seconds: float,
    choose: Callable[[Iterable[int]], int],
) -> dict[str, Any]:
    """Add to each recipe the millijoules per image of at least `seconds` of passes, at one batch size.

    First comes the power of as many seconds in which the workers, loaded, wait. It is taken off: with E the joules of
    t seconds, (E - idle · t) / images. Left out are recipes that are far too slow, that take no more than idle, and
    those whose process has died.

    Args:
        start: gives the meter.
        workers: that have warmed up; one recipe's each.
        choose: of the batch sizes that a recipe was timed at.

    Returns:
        `idle_w` of results.benchmark.Run; or `unavailable_energy`, and then no recipe has any.
    """
    found: list[tuple[Measured, int, float]] = []
    try:
        meter = start()
        idle_w = _idle_w(meter, seconds)
        for name, worker in tqdm(workers.items(), desc="benchmark: energy", unit="recipe"):
            own = recipes[name]
            if own.slow or not own.latency_ms:
                continue
            size = choose(own.latency_ms)
            began, before = _reading(meter)
            if (repeated := worker.ask_if_alive("repeat", size, seconds, own.is_split(size))) is None:
                continue
            ended, after = _reading(meter)
            joules = after - before - idle_w * (ended - began)
            if joules > 0:
                found.append((own, size, 1000 * joules / (repeated[0] * size)))
    except UnsupportedError as reason:
        return {"unavailable_energy": str(reason)}
    for own, size, millijoules in found:
        own.energy_mj[size] = round(millijoules, 4)
    return {"idle_w": round(idle_w, 3)}


def _idle_w(meter: Meter, seconds: float) -> float:
    """Watts while nothing runs."""
    began, before = _reading(meter)
    time.sleep(seconds)
    ended, after = _reading(meter)
    return (after - before) / (ended - began)


def _reading(meter: Meter) -> tuple[float, float]:
    """When the counter next moves, in seconds, and the joules it then shows.

    Raises:
        UnsupportedError: it stands still, as in some virtual machines.
    """
    before, end = meter(), time.perf_counter() + PATIENCE
    while (now := meter()) == before:
        if time.perf_counter() > end:
            raise UnsupportedError("the energy counter stands still")
        time.sleep(POLL)
    return time.perf_counter(), now
