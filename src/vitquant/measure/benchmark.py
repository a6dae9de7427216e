"""What the benchmarks of the CPU and of GPUs share: latency, memory and size of every artifact, in one run.

One fresh process per artifact measures the memory that loading and predicting takes, then stays, warm.
The driver visits the processes in turn. Interleaving lets slow and fast phases of a shared machine hit
every recipe alike, so that the ratio of two recipes within a round is far steadier than either time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vitquant.artifact import open_artifact
from vitquant.errors import UnsupportedError
from vitquant.measure import session, slowness
from vitquant.measure.worker import Worker
from vitquant.params import BASELINE, Benchmark
from vitquant.results.benchmark import Benchmarked, Measured

Recipes = dict[str, Benchmarked]


@contextmanager
def started(
    artifacts: Sequence[Path], data: Path, params: Benchmark, threads: int, device: torch.device
) -> Iterator[tuple[dict[str, Worker], Recipes]]:
    """A warm process for every artifact that can run here, and what is known of each so far, by its name.

    On the CPU one process loads after another; on a GPU, where loading means minutes of compiling for each batch size,
    all at once, and every size is warmed up.
    """
    workers: dict[str, Worker] = {}
    recipes: Recipes = {}

    def start(artifact: Path) -> Worker:
        workers[artifact.name] = Worker(session.serve, artifact, data, params, threads, device)
        return workers[artifact.name]

    try:
        if device.type != "cpu":
            for artifact in artifacts:
                start(artifact)
        for artifact in tqdm(artifacts, desc="benchmark: load", unit="recipe"):
            worker = workers.get(artifact.name) or start(artifact)
            opened = open_artifact(artifact)
            recipe = recipes[artifact.name] = Benchmarked(traits=opened.spec.traits)
            try:
                memory = worker.receive()
            except UnsupportedError as reason:
                recipe.unavailable = str(reason)
                workers.pop(artifact.name).close()
                continue
            recipe.measured = Measured(artifact_sha256=opened.sha256, size_bytes=opened.size_bytes, memory_bytes=memory)
        yield workers, recipes
    finally:
        for worker in workers.values():
            worker.close()


def measured(recipes: Recipes) -> dict[str, Measured]:
    """Those that could be loaded."""
    return {name: recipe.measured for name, recipe in recipes.items() if recipe.measured}


def interleave(
    workers: dict[str, Worker],
    recipes: Recipes,
    params: Benchmark,
    between: Callable[[], None] = lambda: None,
    max_slowdown: float = math.inf,
) -> None:
    """Visit the workers in turn, in an order drawn anew for each round; call `between` after every round.

    Adds `latency_ms` to what is measured of each recipe. A recipe whose first rounds take `max_slowdown` times as long
    as the baseline's is not visited again: it gets `slow`, the reason.
    """
    order, found = np.random.default_rng(params.seed), measured(recipes)
    with tqdm(total=sum(batch.rounds for batch in params.batches), desc="benchmark: time", unit="round") as bar:
        for batch in params.batches:
            names = []
            for name, worker in workers.items():
                if found[name].slow:
                    continue
                reason = worker.ask("warm_up", batch.size, params.warmup)
                if reason:
                    found[name].unavailable_batches[batch.size] = reason
                else:
                    found[name].latency_ms[batch.size] = []
                    names.append(name)
            for number in range(batch.rounds):
                if number == slowness.PASSES:
                    _mark_slow({name: found[name] for name in names}, batch.size, max_slowdown)
                    names = [name for name in names if not found[name].slow]
                for name in order.permutation(names):
                    seconds = workers[name].ask("time", batch.size, batch.passes)
                    found[name].latency_ms[batch.size].append(round(1000 * seconds, 4))
                between()
                bar.update()


def _mark_slow(recipes: dict[str, Measured], size: int, limit: float) -> None:
    """Note which recipes' first rounds at batch `size` took more than `limit` times the baseline's."""
    medians = {name: float(np.median(recipe.latency_ms[size])) for name, recipe in recipes.items()}
    for name, median in medians.items():
        if name != BASELINE and median > limit * medians.get(BASELINE, math.inf):
            recipes[name].slow = slowness.describe(median / medians[BASELINE], limit)
