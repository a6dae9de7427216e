"""What a load test found: throughput, latency with intervals, errors by kind, and which recipe answered."""

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt

from vitquant.analysis import blocks
from vitquant.errors import printable
from vitquant.serving.loadtest import OK, Sent


class Percentile(BaseModel):
    """A latency in milliseconds with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    value: NonNegativeFloat
    low: NonNegativeFloat
    high: NonNegativeFloat


class Load(BaseModel):
    """One run of a load test."""

    model_config = ConfigDict(frozen=True)

    clients: NonNegativeInt | None = None
    """Of a closed loop."""
    rate: NonNegativeFloat | None = None
    """Of an open loop: requests a second."""
    seconds: NonNegativeFloat
    images_per_request: int
    requests: NonNegativeInt
    outcomes: dict[str, int]
    """How many had which status, `timeout` or `connection`."""
    recipes: dict[str, int]
    """How many each recipe answered."""
    images_per_s: NonNegativeFloat
    """Answered, from the start to the last answer."""
    latency_ms: dict[str, Percentile]
    """p50, p95 and p99 of the answers that had logits; empty where there are none."""


def summarize(sent: Sequence[Sent], seconds: float, each: int, clients: int | None, rate: float | None) -> Load:
    """What there is to say of a run."""
    answered = [one for one in sent if one.outcome == OK]
    last = max((one.at + one.seconds for one in answered), default=seconds)
    return Load(
        clients=clients,
        rate=rate,
        seconds=seconds,
        images_per_request=each,
        requests=len(sent),
        outcomes=dict(sorted(Counter(one.outcome for one in sent).items())),
        recipes=dict(sorted(Counter(one.recipe or "unknown" for one in answered).items())),
        images_per_s=round(len(answered) * each / max(seconds, last), 3),
        latency_ms=latencies(answered) if answered else {},
    )


def latencies(answered: Sequence[Sent]) -> dict[str, Percentile]:
    """Percentiles with bootstrap intervals over blocks of time."""
    parts = blocks.split((one.at for one in answered), (1000 * one.seconds for one in answered))
    low, high = blocks.bounds(blocks.resampled(parts))
    found = zip(blocks.PERCENTILES, blocks.percentiles(parts), low, high, strict=True)
    return {
        f"p{percent}": Percentile(value=round(value, 3), low=round(least, 3), high=round(most, 3))
        for percent, value, least, most in found
    }


def text(load: Load) -> str:
    """For a terminal."""
    loop = f"closed loop, {load.clients} clients" if load.clients else f"open loop, {load.rate:g} requests a second"
    lines = [f"{loop}, {load.seconds:g} s: {load.requests} requests, {load.images_per_s:.1f} images a second"]
    lines += [
        f"  {name}  {each.value:.1f} ms [{each.low:.1f}, {each.high:.1f}]" for name, each in load.latency_ms.items()
    ]
    answers = ", ".join(f"{printable(name)}: {count}" for name, count in load.recipes.items()) or "none"
    lines.append(f"  answered by {answers}")
    problems = ", ".join(f"{name}: {count}" for name, count in load.outcomes.items() if name != OK)
    return "\n".join([*lines, f"  not answered {problems}"] if problems else lines)
