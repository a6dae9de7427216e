"""What the benchmarks of the CPU and of GPUs share: latency, memory and size of every artifact, in several launches.

A launch starts one fresh process per artifact, which measures the memory that loading and predicting takes, then stays,
warm. The driver visits the processes in turn. Interleaving lets slow and fast phases of a shared machine hit every
recipe, so that the ratio of two recipes within a round is steadier than either time. Launches differ by more than the
rounds of one: where memory lies, what the machine does besides (Kalibera & Jones 2013).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vitquant.artifact import open_artifact
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.measure import session, slowness
from vitquant.measure.conditions import Watch
from vitquant.measure.worker import Worker
from vitquant.params import BASELINE, Batch, Benchmark
from vitquant.results.benchmark import Benchmarked, Measured, Trial
from vitquant.results.environment import Conditions

AT_ONCE = 2  # processes that load on the CPU; Python imports on one core each
Recipes = dict[str, Benchmarked]


def _nothing(*_: object) -> None:
    pass


@dataclass
class Launch:
    """The processes of one launch, and what is known of their recipes."""

    name: str
    """For a person who waits."""
    workers: dict[str, Worker] = field(default_factory=dict)
    """Of the recipes that still run."""
    recipes: Recipes = field(default_factory=dict)
    """Of all; what is measured is of this launch alone."""

    def measured(self, name: str) -> Measured:
        """What is measured of a recipe that still runs."""
        own = self.recipes[name].measured
        assert own
        return own

    def ask(self, name: str, *question: Any) -> Any:
        """Ask a recipe's process; where it dies, the recipe is unavailable and None is the answer."""
        try:
            return self.workers[name].ask(*question)
        except UnsupportedError as reason:
            self.end(name, str(reason))
            return None

    def end(self, name: str, reason: str) -> None:
        """Note that a recipe cannot run here, and why.

        Raises:
            VitquantError: it is the baseline.
        """
        self.workers.pop(name).close()
        if name == BASELINE:
            raise _no_baseline(reason)
        self.recipes[name] = Benchmarked(traits=self.recipes[name].traits, unavailable=reason)


def _no_baseline(reason: str) -> VitquantError:
    return VitquantError(
        f"{BASELINE}, the baseline of every ratio, could not be measured: {reason}: earlier results stay as they are"
    )


@dataclass
class Launched:
    """What the launches gave."""

    recipes: Recipes = field(default_factory=dict)
    conditions: list[Conditions] = field(default_factory=list)
    """One of each launch."""
    trial: Conditions | None = None
    """Of the one before them, on the CPU."""
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
    finish: Callable[[dict[str, Worker], Recipes], None] = _nothing,
) -> Launched:
    """Measure every artifact in `params.launches` launches.

    On the CPU one more comes first, of which nothing is counted: it tries the ways to run a batch, and finds what is
    far too slow. A launch during which others had more than `params.max_busy_pct` of the cores' time is thrown away and
    repeated, before anybody has seen its times, at most `params.max_repeats` times in all.

    Args:
        max_slowdown: a recipe whose trials take so many times as long as the baseline's is timed in a few rounds only.
        between: called after every round.
        finish: called once, at the end, with the processes of the last launch, still warm.

    Raises:
        VitquantError: the baseline cannot run, or an artifact is damaged.
    """
    done, order = Launched(), np.random.default_rng(params.seed)

    def is_quiet(conditions: Conditions) -> bool:
        if conditions.busy_pct > params.max_busy_pct and len(done.repeated) < params.max_repeats:
            done.repeated.append(conditions)
            return False
        return True

    while device.type == "cpu" and not done.recipes:
        with _started(artifacts, data, params, threads, device, "benchmark, trial") as launch:
            watch = Watch()
            _try(launch, params, threads, max_slowdown)
            conditions = watch.conditions()
            if is_quiet(conditions):
                done.recipes, done.trial = launch.recipes, conditions
    while len(done.conditions) < params.launches:
        left, name = _left(artifacts, done.recipes), f"benchmark {len(done.conditions) + 1}/{params.launches}"
        with _started(left, data, params, threads, device, name) as launch:
            _warm_up(launch, done.recipes, params)
            watch = Watch()
            _interleave(launch, params, order, between)
            conditions = watch.conditions()
            if is_quiet(conditions):
                done.conditions.append(conditions)
                add(done.recipes, launch.recipes)
                if len(done.conditions) == params.launches:
                    finish(launch.workers, done.recipes)
    return done


def measured(recipes: Recipes) -> dict[str, Measured]:
    """Those that could be loaded."""
    return {name: recipe.measured for name, recipe in recipes.items() if recipe.measured}


def _left(artifacts: Sequence[Path], recipes: Recipes) -> list[Path]:
    """The artifacts that another launch can say something of."""
    ended = {
        name
        for name, recipe in recipes.items()
        if not recipe.measured or (recipe.measured.slow and recipe.measured.memory_bytes)
    }
    return [artifact for artifact in artifacts if artifact.name not in ended]


@contextmanager
def _started(
    artifacts: Sequence[Path], data: Path, params: Benchmark, threads: int, device: torch.device, name: str
) -> Iterator[Launch]:
    """A process for every artifact that can run here; none for one that says why it cannot.

    On the CPU a few load at once; on a GPU all do, where loading means minutes of compiling for each batch size, and
    every size is warmed up.
    """
    launch = Launch(name)
    able: list[Path] = []
    for artifact in artifacts:
        spec = open_artifact(artifact).spec
        launch.recipes[artifact.name] = Benchmarked(traits=spec.traits, unavailable=spec.unavailable)
        if not spec.unavailable:
            able.append(artifact)
        elif artifact.name == BASELINE:
            raise _no_baseline(spec.unavailable)
    waiting = iter(able)

    def start(count: int) -> None:
        for artifact in itertools.islice(waiting, count):
            launch.workers[artifact.name] = Worker(session.serve, artifact, data, params, threads, device)

    try:
        start(AT_ONCE if device.type == "cpu" else len(able))
        for artifact in tqdm(able, desc=f"{name}: load", unit="recipe"):
            opened = open_artifact(artifact)
            try:
                memory = launch.workers[artifact.name].receive()
            except UnsupportedError as reason:
                launch.end(artifact.name, str(reason))
                continue
            finally:
                start(1)
            launch.recipes[artifact.name].measured = Measured(
                artifact_sha256=opened.sha256, size_bytes=opened.size_bytes, memory_bytes=[memory]
            )
        yield launch
    finally:
        for worker in launch.workers.values():
            worker.close()


def _try(launch: Launch, params: Benchmark, threads: int, max_slowdown: float) -> None:
    """Run every batch size each way, and leave of what is measured only what that shows: no memory, no times.

    At batch sizes beyond the smallest that can be split, whose passes are long, one is timed each way, and none looked
    at for what is far too slow.
    """
    for own in measured(launch.recipes).values():
        own.memory_bytes = []
    sizes = [batch.size for batch in params.batches]
    smallest = min((size for size in sizes if 1 < threads <= size), default=max(sizes))
    for size in sizes:
        ways, passes = [False, True] if 1 < threads <= size else [False], slowness.PASSES if size <= smallest else 1
        fastest: dict[str, float] = {}
        for name in list(launch.workers):
            if not launch.measured(name).slow and (tried := _trial(launch, name, size, ways, params.warmup, passes)):
                fastest[name] = min(tried.values())
                if len(tried) > 1:
                    launch.measured(name).trials[size] = Trial(whole_ms=tried[False], split_ms=tried[True])
        for name, taken in fastest.items() if size <= smallest else ():
            if name != BASELINE and taken > max_slowdown * fastest.get(BASELINE, math.inf):
                launch.measured(name).slow = slowness.describe(taken / fastest[BASELINE], max_slowdown)


def _trial(launch: Launch, name: str, size: int, ways: list[bool], untimed: int, passes: int) -> dict[bool, float]:
    """Median milliseconds of a batch, by whether it is split over the cores; nothing where it cannot be run."""
    able = []
    for split in ways:
        answer = launch.ask(name, "warm_up", size, untimed, split)
        if answer is None:
            return {}
        if isinstance(answer, int):
            able.append(split)
        elif not able:
            launch.measured(name).unavailable_batches[size] = answer
            return {}
    times: dict[bool, list[float]] = {split: [] for split in able}
    for split in able * passes:
        if (seconds := launch.ask(name, "time", size, 0, split)) is None:
            return {}
        times[split].append(1000 * seconds)
    return {split: round(float(np.median(each)), 4) for split, each in times.items()}


def _warm_up(launch: Launch, before: Recipes, params: Benchmark) -> None:
    """An untimed visit of every batch size that has run so far; of what is far too slow, of the first one.

    Adds to what is measured those that can be run, with no times yet, and the peak of memory at each.
    """
    for size in [batch.size for batch in params.batches]:
        for name in list(launch.workers):
            own, earlier = launch.measured(name), before[name].measured if name in before else None
            if earlier:
                own.trials, own.slow = earlier.trials, earlier.slow
            if (own.slow and own.latency_ms) or (earlier and size in earlier.unavailable_batches):
                continue
            answer = launch.ask(name, "warm_up", size, params.warmup, own.is_split(size))
            if isinstance(answer, str):
                own.unavailable_batches[size] = answer
            elif answer is not None:
                own.memory_bytes[0].peak[size] = answer
                own.latency_ms[size] = [[]]


def _interleave(launch: Launch, params: Benchmark, order: np.random.Generator, between: Callable[[], None]) -> None:
    """Visit the workers in turn, in an order drawn anew for each round; add the times to what is measured."""
    total = sum(batch.rounds for batch in params.batches)
    with tqdm(total=total, desc=f"{launch.name}: time", unit="round") as bar:
        for batch in params.batches:
            names = [name for name in launch.workers if batch.size in launch.measured(name).latency_ms]
            for number in range(batch.rounds):
                for name in order.permutation(names):
                    if name in launch.workers and not (launch.measured(name).slow and number >= slowness.PASSES):
                        _visit(launch, name, batch, number)
                between()
                bar.update()


def _visit(launch: Launch, name: str, batch: Batch, number: int) -> None:
    own = launch.measured(name)
    seconds = launch.ask(name, "time", batch.size, batch.seconds, own.is_split(batch.size))
    if seconds is None:
        return
    own.latency_ms[batch.size][0].append(round(1000 * seconds, 4))
    if batch.size == 1 and (from_file := launch.ask(name, "from_file", number)) is not None:
        own.from_file_ms = own.from_file_ms or [[]]
        own.from_file_ms[0].append(round(1000 * from_file, 4))


def add(done: Recipes, launch: Recipes) -> None:
    """Add what another launch gave.

    A recipe that no longer runs is unavailable from then on, and a batch size that no longer runs is left out: what is
    kept of a size is of all launches.
    """
    for name, new in launch.items():
        own = done[name].measured if name in done else None
        if not own or not new.measured:
            done[name] = new
            continue
        own.memory_bytes += new.measured.memory_bytes
        own.from_file_ms += new.measured.from_file_ms
        own.unavailable_batches |= new.measured.unavailable_batches
        first = len(own.memory_bytes) == 1
        for size, times in new.measured.latency_ms.items():
            if first or size in own.latency_ms:
                own.latency_ms[size] = own.latency_ms.get(size, []) + times
        for size in new.measured.unavailable_batches:
            own.latency_ms.pop(size, None)
        if 1 not in own.latency_ms:
            own.from_file_ms = []
