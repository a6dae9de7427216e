"""The benchmark on the CPU: every artifact's speed, memory and size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vitquant.artifact import open_artifact
from vitquant.measure import benchmark, energy, environment, register_rate
from vitquant.measure.products import linear_products
from vitquant.measure.rapl import POWERCAP, Rapl
from vitquant.measure.worker import Worker
from vitquant.params import Benchmark
from vitquant.predictor import CPU
from vitquant.results import benchmark as results


def run(
    artifacts: Sequence[Path],
    data: Path,
    params: Benchmark,
    threads: int,
    max_slowdown: float,
    powercap: Path = POWERCAP,
) -> results.Benchmark:
    """Measure everything on the CPU.

    Args:
        powercap: where the kernel's energy counters lie.
    """
    rates, reason = register_rate.measure(threads)
    more: dict[str, Any] = {}

    def finish(workers: dict[str, Worker], recipes: benchmark.Recipes) -> None:
        found = benchmark.measured(recipes)
        answers = (worker.ask_if_alive("allocator") for worker in workers.values())
        more["allocator"] = next(filter(None, answers), None)
        more.update(energy.measure(lambda: Rapl(powercap), workers, found, params.energy_seconds, min))

    launched = benchmark.run(artifacts, data, params, threads, CPU, max_slowdown=max_slowdown, finish=finish)
    return results.Benchmark(
        environment=environment.environment(threads=threads, cpu_capability=torch.backends.cpu.get_cpu_capability()),
        conditions=launched.conditions,
        trial=launched.trial,
        repeated=launched.repeated,
        **more,
        products_per_image=linear_products(open_artifact(artifacts[0])),
        register_products_per_s=rates,
        unavailable_register_rate=reason,
        recipes=launched.recipes,
    )
