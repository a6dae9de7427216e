"""How often the interval of a speed-up holds the truth, by simulation.

A recipe and fp32 are timed by turns, in several launches of few rounds, on a machine that is not quiet. Of many such
runs each method's interval is held against what the run was drawn from; the project's own method is
`analysis.statistics.paired_ratio`, called as the report calls it:

    python benchmarks/coverage.py [runs]

The truth is the **steady ratio**: of the two times without interruptions and slow phases, as a geometric mean over
launches. That is what a reader takes a speed-up for; a method that slow phases shift must pay for it here. Beside it,
because a method cannot be blamed for all that a disturbed machine does, stands the **method's own average** over all
runs: an interval that holds that is right about how another run would come out. The last table says that directly: how
often two runs of the same recipes would be called different, as `analysis.compare` does it. It should be below 5 %.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter
from tabulate import tabulate

from vitquant import cpu
from vitquant.analysis import statistics
from vitquant.analysis.compare import ratio_interval

RATIO = 2.0  # fp32's time over the recipe's
LAUNCHES = 5
DESIGNS = {8: 40, 3: 12}  # rounds of a launch, and those of the one launch that there was before
PAUSE = 8  # rounds' time between two launches' rounds of a batch size: loading, and the other sizes
SLOWED = np.log([1.27, 1.64])  # what a slow phase did to fp32, and to dynamic-int8
RESAMPLES = 5000
ALPHA = 1 - statistics.LEVEL
Logs = NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """What times vary by; deviations are of their logarithms.

    Without arguments it is the upper end of what runs of the sample study showed at batch 1: from round to round a
    ratio varies by 10 %, the two times correlate at 0.5, and each with its predecessor at up to 0.58.
    """

    own: float = 0.07
    """Standard deviation from round to round, of each recipe's own."""
    shared: float = 0.07
    """Of what both share in a round."""
    lag_1: float = 0.58
    """Correlation of a round's part with that of the round before."""
    launch: float = 0.02
    """Standard deviation from launch to launch, of each recipe's own."""
    launch_freedom: float = np.inf
    """Of Student's t, which launches follow: 3 has heavy tails. `launch` is then its scale."""
    mode: float = 0.0
    """Share of the launches in which the recipe takes 1.25 times as long throughout."""
    slow: float = 0.0
    """Share of the time that slow phases take."""
    slow_rounds: float = 1.0
    """Their mean length."""
    interrupted: float = 0.0
    """Share of the passes that take three times as long."""
    run: float = 0.0
    """Standard deviation from run to run, of what all launches of one share."""


CORRELATED = Machine()
MACHINES = {
    "quiet": Machine(own=0.03, shared=0.03, lag_1=0.0, launch=0.01),
    "rounds correlated at 0.58": CORRELATED,
    "launches differ by 5 %": replace(CORRELATED, launch=0.05),
    "heavy-tailed launches": replace(CORRELATED, launch=0.03, launch_freedom=3),
    "passes interrupted": replace(CORRELATED, interrupted=0.05),
    "short slow phases": replace(CORRELATED, slow=0.1, slow_rounds=3),
    "slow phases as long as a launch": replace(CORRELATED, slow=0.1, slow_rounds=8),
    "slow phases over launches": replace(CORRELATED, slow=0.2, slow_rounds=25),
    "every second launch in another mode": replace(CORRELATED, mode=0.5),
    "every tenth launch in another mode": replace(CORRELATED, mode=0.1),
    "all of it": Machine(
        launch=0.03, launch_freedom=3, mode=0.3, slow=0.1, slow_rounds=8, interrupted=0.03
    ),
    "days differ by 3 %": replace(CORRELATED, run=0.03),
}  # fmt: skip


def simulate(machine: Machine, shape: tuple[int, int, int], rng: np.random.Generator) -> Logs:
    """Logarithms of fp32's times and the recipe's, (2, runs, launches, rounds), in order of time."""
    runs, launches, rounds = shape
    time = launches * (rounds + PAUSE)

    def timeline(deviation: float, recipes: int) -> Logs:
        innovations = rng.normal(0, deviation * np.sqrt(1 - machine.lag_1**2), (recipes, runs, time + 20))
        return lfilter([1], [1, -machine.lag_1], innovations)[..., 20:]

    logs = timeline(machine.own, 2) + timeline(machine.shared, 1)
    logs += SLOWED[:, None, None] * slow_phases(machine, runs, time, rng)
    logs += np.log(3) * (rng.random(logs.shape) < machine.interrupted)
    logs = logs.reshape(2, runs, launches, rounds + PAUSE)[..., :rounds]
    effects = machine.launch * (
        rng.standard_t(machine.launch_freedom, (2, runs, launches, 1))
        if np.isfinite(machine.launch_freedom)
        else rng.normal(size=(2, runs, launches, 1))
    )
    effects[1] += np.log(1.25) * ((rng.random((runs, launches, 1)) < machine.mode) - machine.mode)
    effects[1] += rng.normal(0, machine.run, (runs, 1, 1))
    logs[0] += np.log(RATIO)
    return logs + effects


def slow_phases(machine: Machine, runs: int, time: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which rounds lie in a slow phase, (runs, time): phases of geometric length, begun before the run or in it."""
    found = np.empty((runs, time), bool)
    end = 1 / machine.slow_rounds
    begin = end * machine.slow / (1 - machine.slow)
    state = rng.random(runs) < machine.slow
    for index in range(time):
        state = np.where(state, rng.random(runs) >= end, rng.random(runs) < begin)
        found[:, index] = state
    return found


Interval = tuple[Logs, Logs, Logs]  # value, low and high of each run, logarithms


def all_rounds(logs: Logs, rng: np.random.Generator) -> Interval:
    """(a) Percentile bootstrap of the median over all rounds, as if they were independent."""
    rounds = np.sort((logs[0] - logs[1]).reshape(logs.shape[1], -1))
    medians = resampled_medians(rounds, rng.integers(rounds.shape[1], size=(RESAMPLES, rounds.shape[1])))
    return np.median(rounds, axis=1), *np.quantile(medians, [ALPHA / 2, 1 - ALPHA / 2], axis=1)


def hierarchical(logs: Logs, rng: np.random.Generator, alpha: float = ALPHA) -> Interval:
    """(b) Percentile bootstrap over launches, and over the rounds of each (Kalibera & Jones 2013)."""
    ratios = np.sort(logs[0] - logs[1])
    runs, launches, rounds = ratios.shape
    means = np.zeros((runs, RESAMPLES))
    for _ in range(launches):
        drawn = rng.integers(launches, size=(RESAMPLES, 1)) * rounds
        within = np.sort(rng.integers(rounds, size=(RESAMPLES, rounds)))
        means += resampled_medians(ratios.reshape(runs, -1), drawn + within) / launches
    value = np.median(ratios, axis=2).mean(axis=1)
    return value, *np.quantile(means, [alpha / 2, 1 - alpha / 2], axis=1)


def expanded(logs: Logs, rng: np.random.Generator) -> Interval:
    """(c) The same, its percentiles expanded for few launches (Hesterberg 2015)."""
    launches = logs.shape[2]
    quantile = np.sqrt(launches / (launches - 1)) * stats.t.ppf(ALPHA / 2, launches - 1)
    return hierarchical(logs, rng, 2 * stats.norm.cdf(quantile))


def project(logs: Logs, _: np.random.Generator) -> Interval:
    """(d) The project's: Student's t over launches; of one launch over its rounds."""
    times = np.exp(logs)
    found = [statistics.paired_ratio(list(above), list(below)) for above, below in zip(*times, strict=True)]
    value, low, high = np.log([(each.value, each.low, each.high) for each in found]).T
    return value, low, high


def resampled_medians(values: Logs, indices: NDArray[np.int64]) -> Logs:
    """Medians, (runs, resamples), of values that ascend where indices, (resamples, n), do."""
    ordered = np.sort(indices)
    middle = ordered.shape[1] // 2
    upper = values[:, ordered[:, middle]]
    return upper if ordered.shape[1] % 2 else (values[:, ordered[:, middle - 1]] + upper) / 2


METHODS: dict[str, Callable[[Logs, np.random.Generator], Interval]] = {
    "(a) rounds": all_rounds,
    "(b) hierarchical": hierarchical,
    "(c) expanded": expanded,
    "(d) t, the project's": project,
}
ONE_LAUNCH = {"one launch (a)": all_rounds, "one launch (d)": project}


def judge(interval: Interval) -> tuple[float, float, float, float]:
    """Percent of the runs that hold the steady ratio, and their own average; of pairs called different; width."""
    value, low, high = interval

    def holds(truth: float) -> float:
        return 100 * float(np.mean((low <= truth) & (truth <= high)))

    pairs = np.exp([value, low, high]).T.reshape(-1, 2, 3)
    ends = np.array([ratio_interval(tuple(before), tuple(after)) for before, after in pairs])
    differ = 100 * float(np.mean((ends[:, 0] > 1) | (ends[:, 1] < 1)))
    return holds(np.log(RATIO)), holds(float(value.mean())), differ, 100 * float(np.median(np.expm1(high - low)))


def scenario(name: str, rounds: int, runs: int) -> dict[str, tuple[float, float, float, float]]:
    """Every method's marks on one machine."""
    rng = np.random.default_rng([list(MACHINES).index(name), rounds])
    logs = simulate(MACHINES[name], (runs, LAUNCHES, rounds), rng)
    before = simulate(MACHINES[name], (runs, 1, DESIGNS[rounds]), rng)
    marks = {label: judge(in_parts(method, logs, rng)) for label, method in METHODS.items()}
    return marks | {label: judge(in_parts(method, before, rng)) for label, method in ONE_LAUNCH.items()}


def in_parts(method: Callable[[Logs, np.random.Generator], Interval], logs: Logs, rng: np.random.Generator) -> Interval:
    """The method over so few runs at a time that their resamples fit in memory."""
    parts = np.array_split(logs, max(1, logs.shape[1] // 200), axis=1)
    value, low, high = np.concatenate([np.array(method(part, rng)) for part in parts], axis=1)
    return value, low, high


def main(count: str = "2000") -> None:
    """Print a table of each mark."""
    runs = int(count) // 2 * 2
    cases = [(name, rounds) for rounds in DESIGNS for name in MACHINES]
    with ProcessPoolExecutor(cpu.cores()) as pool:
        marks = list(pool.map(scenario, *zip(*cases, strict=True), [runs] * len(cases)))
    print(f"{runs} runs of each: {LAUNCHES} launches of 8 or 3 rounds; one launch: of 40 or 12 rounds")
    for index, title in enumerate(
        ("holds the steady ratio, %", "holds the method's own average, %", "two runs called different, %",
         "median width, % of the ratio")
    ):  # fmt: skip
        rows = [
            {"machine": name, "rounds": rounds} | {label: mark[index] for label, mark in found.items()}
            for (name, rounds), found in zip(cases, marks, strict=True)
        ]
        print(f"\n{title}\n{tabulate(rows, headers='keys', floatfmt='.1f')}")


if __name__ == "__main__":
    main(*sys.argv[1:])
