"""What the benchmarks of the CPU and of GPUs share: latency, memory and size of every artifact, in several launches.

A launch starts one fresh process per artifact, which measures the memory that loading and predicting takes, then stays,
warm. The driver visits the processes in turn. Interleaving lets slow and fast phases of a shared machine hit every
recipe, so that the ratio of two recipes within a round is steadier than either time. Launches differ by more than the
rounds of one: where memory lies, what the machine does besides (Kalibera & Jones 2013).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vitquant.artifact import open_artifact
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.measure import session, slowness
from vitquant.measure.conditions import Watch
from vitquant.measure.worker import Worker
from vitquant.params import BASELINE, Benchmark
from vitquant.results.benchmark import Benchmarked, Measured, Trial
from vitquant.results.environment import Conditions

TRIALS = 2  # of each way to run a batch, in the first launch, before anything is counted
Workers = dict[str, Worker]
Recipes = dict[str, Benchmarked]


def _nothing(*_: object) -> None:
    pass


@dataclass
class Launched:
    """What the launches gave."""

    recipes: Recipes = field(default_factory=dict)
    conditions: list[Conditions] = field(default_factory=list)
    """One of each launch."""
    repeated: list[Conditions] = field(default_factory=list)
    """Of those that were thrown away."""


def run(
    artifacts: Sequence[Path],
    data: Path,
    params: Benchmark,
    threads: int,
    device: torch.device,
    *,
    max_slowdown: float = math.inf,
    between: Callable[[], None] = _nothing,
    finish: Callable[[Workers, Recipes], None] = _nothing,
) -> Launched:
    """Measure every artifact in `params.launches` launches.

    A launch during which others had more than `params.max_busy_pct` of the cores' time is thrown away and repeated,
    before anybody has seen its times, at most `params.max_repeats` times in all.

    Args:
        max_slowdown: a recipe whose trials take so many times as long as the baseline's is not timed further.
        between: called after every round.
        finish: called once, at the end, with the processes of the last launch, still warm.

    Raises:
        VitquantError: the baseline cannot be loaded, or an artifact is damaged.
    """
    done, order = Launched(), np.random.default_rng(params.seed)
    while len(done.conditions) < params.launches:
        name = f"benchmark {len(done.conditions) + 1}/{params.launches}"
        with _started(_left(artifacts, done.recipes), data, params, threads, device, name) as (workers, recipes):
            _check_baseline(recipes)
            _warm_up(workers, recipes, done.recipes, params, threads if device.type == "cpu" else 1, max_slowdown)
            watch = Watch()
            _interleave(workers, recipes, params, order, between, name)
            conditions = watch.conditions()
            if conditions.busy_pct > params.max_busy_pct and len(done.repeated) < params.max_repeats:
                done.repeated.append(conditions)
                continue
            done.conditions.append(conditions)
            _add(done.recipes, recipes)
            if len(done.conditions) == params.launches:
                finish(workers, done.recipes)
    return done


def _check_baseline(recipes: Recipes) -> None:
    if BASELINE in recipes and not recipes[BASELINE].measured:
        raise VitquantError(
            f"{BASELINE}, the baseline of every ratio, could not be measured: {recipes[BASELINE].unavailable}: "
            "earlier results stay as they are"
        )


def measured(recipes: Recipes) -> dict[str, Measured]:
    """Those that could be loaded."""
    return {name: recipe.measured for name, recipe in recipes.items() if recipe.measured}


def _left(artifacts: Sequence[Path], recipes: Recipes) -> list[Path]:
    """The artifacts that another launch can say something of."""
    ended = {name for name, recipe in recipes.items() if not recipe.measured or recipe.measured.slow}
    return [artifact for artifact in artifacts if artifact.name not in ended]


@contextmanager
def _started(
    artifacts: Sequence[Path], data: Path, params: Benchmark, threads: int, device: torch.device, name: str
) -> Iterator[tuple[Workers, Recipes]]:
    """A process for every artifact that can run here, and what is known of each so far, by its name.

    On the CPU one process loads after another; on a GPU, where loading means minutes of compiling for each batch size,
    all at once, and every size is warmed up.
    """
    workers: Workers = {}
    recipes: Recipes = {}

    def start(artifact: Path) -> Worker:
        workers[artifact.name] = Worker(session.serve, artifact, data, params, threads, device)
        return workers[artifact.name]

    try:
        if device.type != "cpu":
            for artifact in artifacts:
                start(artifact)
        for artifact in tqdm(artifacts, desc=f"{name}: load", unit="recipe"):
            worker = workers.get(artifact.name) or start(artifact)
            opened = open_artifact(artifact)
            recipe = recipes[artifact.name] = Benchmarked(traits=opened.spec.traits)
            try:
                memory = worker.receive()
            except UnsupportedError as reason:
                recipe.unavailable = str(reason)
                workers.pop(artifact.name).close()
                continue
            recipe.measured = Measured(
                artifact_sha256=opened.sha256, size_bytes=opened.size_bytes, memory_bytes=[memory]
            )
        yield workers, recipes
    finally:
        for worker in workers.values():
            worker.close()


def _warm_up(
    workers: Workers, recipes: Recipes, before: Recipes, params: Benchmark, threads: int, max_slowdown: float
) -> None:
    """An untimed visit of every batch size; in the first launch, trials of the ways to run it as well.

    Adds to what is measured the sizes that can be run, with no times yet, and the peak of memory at each; of what is
    far too slow the times of the trials, and why there are no more.
    """
    found = measured(recipes)
    trials: dict[str, dict[int, list[float]]] = {name: {} for name in workers}
    for size in [batch.size for batch in params.batches]:
        for name, worker in workers.items():
            own, earlier = found[name], before[name].measured if name in before else None
            if own.slow or (earlier and size in earlier.unavailable_batches):
                continue
            own.trials = earlier.trials if earlier else own.trials
            ways = [earlier.is_split(size)] if earlier else [False, True] if 1 < threads <= size else [False]
            peaks = {split: worker.ask("warm_up", size, params.warmup, split) for split in ways}
            if reason := next((peak for peak in peaks.values() if isinstance(peak, str)), None):
                own.unavailable_batches[size] = reason
                continue
            if not earlier:
                times: dict[bool, list[float]] = {split: [] for split in ways}
                for split in ways * TRIALS:
                    times[split].append(round(1000 * worker.ask("time", size, 0, split), 4))
                if len(ways) > 1:
                    whole, split_up = (float(np.median(times[split])) for split in ways)
                    own.trials[size] = Trial(whole_ms=whole, split_ms=split_up)
                trials[name][size] = times[own.is_split(size)]
            own.memory_bytes[0].peak[size] = peaks[own.is_split(size)]
            own.latency_ms[size] = [[]]
        _mark_slow(found, trials, size, max_slowdown)


def _mark_slow(
    recipes: dict[str, Measured], trials: dict[str, dict[int, list[float]]], size: int, limit: float
) -> None:
    """Note which recipes' trials at batch `size` took more than `limit` times the baseline's; they are all there is."""
    medians = {name: float(np.median(times[size])) for name, times in trials.items() if size in times}
    for name, median in medians.items():
        if name != BASELINE and median > limit * medians.get(BASELINE, math.inf):
            recipes[name].slow = slowness.describe(median / medians[BASELINE], limit)
            recipes[name].latency_ms = {tried: [times] for tried, times in trials[name].items()}


def _interleave(
    workers: Workers,
    recipes: Recipes,
    params: Benchmark,
    order: np.random.Generator,
    between: Callable[[], None],
    name: str,
) -> None:
    """Visit the workers in turn, in an order drawn anew for each round; add the times to what is measured."""
    found = measured(recipes)
    with tqdm(total=sum(batch.rounds for batch in params.batches), desc=f"{name}: time", unit="round") as bar:
        for batch in params.batches:
            names = [each for each in workers if batch.size in found[each].latency_ms and not found[each].slow]
            for number in range(batch.rounds):
                for each in order.permutation(names):
                    own = found[each]
                    seconds = workers[each].ask("time", batch.size, batch.seconds, own.is_split(batch.size))
                    own.latency_ms[batch.size][0].append(round(1000 * seconds, 4))
                    if batch.size == 1:
                        own.from_file_ms = own.from_file_ms or [[]]
                        own.from_file_ms[0].append(round(1000 * workers[each].ask("from_file", number), 4))
                between()
                bar.update()


def _add(done: Recipes, launch: Recipes) -> None:
    """Add what another launch gave; a recipe that no longer loads is unavailable from then on."""
    for name, new in launch.items():
        own = done[name].measured if name in done else None
        if not own or not new.measured:
            done[name] = new
            continue
        own.memory_bytes += new.measured.memory_bytes
        own.from_file_ms += new.measured.from_file_ms
        for size, times in new.measured.latency_ms.items():
            own.latency_ms[size] += times
