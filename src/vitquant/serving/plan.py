"""How long and how often the study of serving measures what: all settings, in full and in brief, for CPUs and GPUs."""

from dataclasses import dataclass, replace

from vitquant.results.serving import Sent


@dataclass(frozen=True)
class Plan:
    """The settings. The full one takes about 16 minutes on two cores."""

    rounds: int = 5
    """Of whatever is compared."""
    visit: float = 3.0
    """Seconds that one of them is asked in a round."""
    batches: tuple[int, ...] = (1, 4, 8, 32)
    """Batch limits."""
    kinds: tuple[Sent, ...] = ("files",)
    """What a request holds, where throughput and latency are measured."""
    split: bool = True
    """Whether a worker for each core is tried, too."""
    clients: int = 4
    """Of a closed loop, at least; so many that two whole batches are under way."""
    shares: tuple[float, ...] = (0.3, 0.6, 0.9, 1.2)
    """Arrival rates, of the capacity."""
    more_shares: tuple[float, ...] = (1.0, 3.0)
    """The same, of the first recipe only: full load, and far too much."""
    open_rounds: int = 2
    more_open_rounds: int = 4
    """Of the first recipe's open loops, which goals are about."""
    open_seconds: float = 8.0
    """Of a round of an open loop."""
    starts: int = 3
    kills: int = 10
    kill_every: float = 6.0
    """Seconds from one kill to the next."""
    soak_requests: int = 100_000
    """To a tiny artifact on the CPU; none at 0."""
    soak_seconds: float = 90.0
    """At most, if not all of these requests have been answered then."""
    looks: int = 10
    """At the memory, meanwhile."""
    max_busy_pct: float = 5.0
    """Of the cores' time, that others may have: where they had more, a part of the study is measured once more."""
    brief: bool = False


FULL = Plan()
BRIEF = Plan(
    rounds=2, visit=0.2, batches=(1, 8), shares=(0.6,), more_shares=(1.0, 3.0), open_rounds=1, more_open_rounds=1,
    open_seconds=0.4,
    starts=1, kills=1, kill_every=0.5, soak_requests=100, soak_seconds=0.5, looks=1, max_busy_pct=100,
    brief=True,
)  # fmt: skip


def on_gpu(plan: Plan) -> Plan:
    """The same for a GPU, where one worker has the device, many clients are needed, and workers start slowly."""
    made = replace(
        plan, kinds=("pixels", "files"), split=False, clients=32, more_shares=(), soak_requests=0, max_busy_pct=100
    )  # others' load on the CPU hardly matters to a GPU
    if plan.brief:
        return made
    return replace(made, rounds=4, visit=2.0, more_open_rounds=2, open_seconds=3.0, starts=2, kills=4, kill_every=20.0)
