"""What the measurements of the server say: ratios, percentiles, and whether goals that were set before are reached."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from vitquant.analysis import blocks, queueing, statistics
from vitquant.analysis.blocks import Times
from vitquant.analysis.findings import Estimate
from vitquant.analysis.load import MACHINE, Results
from vitquant.errors import VitquantError
from vitquant.results import form
from vitquant.results.serving import FILE, OK, REFUSED, Rate, Serving, Throughput

LIMIT = 8  # the batch limit that is held against 1, chosen before anything was measured
MODERATE, FULL, OVER = 0.6, 1.0, 3.0  # rates of arrival, of the capacity, that goals are about
P50, P99 = blocks.PERCENTILES.index(50), blocks.PERCENTILES.index(99)
Verdict = Literal["reached", "missed", "not shown"]


def read(folder: Path | None, results: Results) -> Serving | None:
    """What serving.json in the folder says; None where there is none, or it is of other artifacts or another machine.

    Raises:
        VitquantError: it cannot be read.
    """
    file = folder / FILE if folder else None
    if not file or not file.exists():
        return None
    found = form.read(file, Serving, "delete it, and run `make loadtest`")
    timed = {name: recipe.measured for name, recipe in results.benchmark.recipes.items()}
    same = all((own := timed.get(name)) and own.artifact_sha256 == sha256 for name, sha256 in found.artifacts.items())
    here = results.benchmark.environment
    if not same or any(getattr(here, key) != getattr(found.environment, key) for key in MACHINE):
        return None
    if not any(_is_default(each) for each in found.throughput if each.server.recipe == found.subject):
        raise VitquantError(f"{file}: {found.subject} has no server of one worker and batch limit 1: `make loadtest`")
    return found


def read_gpus(folder: Path | None) -> list[Serving]:
    """What was measured on GPUs: all other files in the folder, by name.

    Raises:
        VitquantError: one cannot be read.
    """
    files = sorted(folder.glob("*.json")) if folder else []
    mend = "delete it, and run `vitquant serving --device cuda` on that machine"
    return [form.read(file, Serving, mend) for file in files if file.name != FILE]


def ratio_to_default(found: Serving, one: Throughput) -> Estimate | None:
    """A server's throughput over that of the one with one worker and batch limit 1, in the same rounds."""
    default = next(
        (
            each
            for each in found.throughput
            if (each.server.recipe, each.sent) == (one.server.recipe, one.sent) and _is_default(each)
        ),
        None,
    )
    return _ratio(one.images_per_s, default.images_per_s) if default and default is not one else None


def batching(found: Serving) -> dict[str, Estimate]:
    """By recipe: its throughput with batch limit LIMIT over that with 1."""
    return {
        each.server.recipe: ratio
        for each in found.throughput
        if each.server.max_batch == LIMIT and (ratio := ratio_to_default(found, each))
    }


def latencies(rate: Rate) -> dict[int, Estimate]:
    """PERCENTILES of the answered requests' latency, milliseconds; none where none was answered."""
    parts = _blocks(rate)
    if not parts:
        return {}
    low, high = blocks.bounds(blocks.resampled(parts))
    found = zip(blocks.PERCENTILES, blocks.percentiles(parts), low, high, strict=True)
    return {
        percent: Estimate(value=float(value), low=float(min(value, least)), high=float(max(value, most)), unit="ms")
        for percent, value, least, most in found
    }


def outcomes(rate: Rate) -> dict[str, int]:
    """How many requests had which outcome, over the rounds."""
    return _sum([each.outcomes for each in rate.rounds])


def answered_by(rate: Rate) -> dict[str, int]:
    """How many requests each recipe answered, over the rounds."""
    return _sum([each.recipes for each in rate.rounds])


@dataclass(frozen=True)
class Goal:
    """What was set before, and what came out. Texts are plain, with code in backticks."""

    what: str
    wanted: float
    more: bool
    """Whether more is better."""
    measured: Estimate | float
    unit: str
    form: str
    """As Python formats the value."""

    @property
    def verdict(self) -> Verdict:
        """Whether the whole interval is on the right side, or all of it on the wrong one."""
        own = self.measured
        low, high = own.interval if isinstance(own, Estimate) else (own, own)
        if low >= self.wanted if self.more else high <= self.wanted:
            return "reached"
        return "missed" if (high < self.wanted if self.more else low > self.wanted) else "not shown"


def goals(found: Serving) -> list[Goal]:
    """Those of the first recipe, as far as they were measured."""
    paths, kills = found.paths, found.kills
    made = [
        Goal("image files over HTTP, against `vitquant predict`", 0.9, True, _ratio(paths.files, paths.predict),
             "× its throughput", ".3f"),
        Goal("pixels over HTTP, against the bare model", 0.95, True, _ratio(paths.pixels, paths.bare),
             "× its throughput", ".3f"),
        *([Goal("the same, with a worker, and a thread, for each core", 0.95, True,
                _ratio(paths.pixels_split, paths.bare_split), "× its throughput", ".3f")]
          if paths.pixels_split and paths.bare_split else []),
        *_latency_goals(found),
        Goal("SIGKILL to the worker: requests lost, or answered twice", 0, False, float(sum(unaccounted(found))), "",
             ".0f"),
        Goal("until it serves again after that, at most", 5, False, max(kills.again_s), "s", ".2f"),
        Goal("from its start to ready, at most", 10, False, max(found.starts_s), "s", ".1f"),
    ]  # fmt: skip
    if found.soak:
        memory = found.soak.resident_bytes
        growth = 100 * (memory[-1] / memory[0] - 1)
        made.append(Goal("growth of its memory over the requests", 5, False, growth, "%", "+.1f"))
    return made


def unaccounted(found: Serving) -> tuple[int, int]:
    """Requests under kills that had neither an answer nor a 503; and answers of the server's that no client had."""
    kills = found.kills
    lost = sum(count for outcome, count in kills.outcomes.items() if outcome not in (OK, REFUSED))
    return lost, max(0, kills.counted - kills.outcomes.get(OK, 0))


def _latency_goals(found: Serving) -> list[Goal]:
    rates = {each.share: parts for each in found.rates if each.recipe == found.subject and (parts := _blocks(each))}
    made, times = [], "× that"
    if MODERATE in rates:
        bare = [np.array(times_ms) for times_ms in found.paths.bare_ms]
        ratio = _percentile_ratio(rates[MODERATE], P99, bare, P50)
        made.append(
            Goal(f"p99 at {100 * MODERATE:.0f} % of capacity, against the bare median", 3, False, ratio, times, ".2f")
        )
    if FULL in rates and OVER in rates:
        ratio = _percentile_ratio(rates[OVER], P99, rates[FULL], P99)
        made.append(
            Goal(
                f"p99 of what is answered at {100 * OVER:.0f} %, against {100 * FULL:.0f} %",
                2,
                False,
                ratio,
                times,
                ".2f",
            )
        )
        over = outcomes(next(each for each in found.rates if (each.recipe, each.share) == (found.subject, OVER)))
        hanging = float(sum(count for outcome, count in over.items() if outcome not in (OK, REFUSED)))
        what = f"neither answered nor refused with 503 at {100 * OVER:.0f} %"
        made.append(Goal(what, 0, False, hanging, "requests", ".0f"))
    return made


@dataclass(frozen=True)
class Ideal:
    """Servers that take the model's own time for a request, and none for all else, given what ours was at MODERATE."""

    service_ms: float
    """The bare model's median."""
    p99: float
    """Of one worker, × that."""
    split_p99: float | None
    """Of a worker for each core, as fast as ours are when saturated, × the same; None where they were not measured."""
    ours: Estimate
    """The measured p99 over that of one worker."""


def ideal(found: Serving) -> Ideal | None:
    """For the first recipe; None where its rate was not measured, or not all requests were answered."""
    rate = next((each for each in found.rates if (each.recipe, each.share) == (found.subject, MODERATE)), None)
    if not rate or set(outcomes(rate)) != {OK}:
        return None
    service = float(np.median(np.concatenate(found.paths.bare_ms)))
    one = _ideal_blocks(rate, service, 1)
    split = next(
        (each for each in found.throughput if each.server.recipe == rate.recipe and each.server.workers > 1), None
    )
    split_p99 = None
    if split:
        workers = split.server.workers
        own = 1000 * workers / median(split.images_per_s)
        split_p99 = float(blocks.percentiles(_ideal_blocks(rate, own, workers))[P99] / service)
    ratio = _percentile_ratio(_blocks(rate), P99, one, P99, paired=True)
    return Ideal(service, float(blocks.percentiles(one)[P99] / service), split_p99, ratio)


def _ideal_blocks(rate: Rate, service_ms: float, workers: int) -> list[Times]:
    return [
        part
        for each in rate.rounds
        for part in blocks.split(each.at_s, 1000 * queueing.ideal(each.at_s, service_ms / 1000, workers))
    ]


def _is_default(one: Throughput) -> bool:
    return one.server.workers == one.server.max_batch == 1


def _ratio(speeds: Sequence[float], others: Sequence[float]) -> Estimate:
    """Of two throughputs, round by round: the geometric mean, with Student's t interval over rounds."""
    ours, theirs = (1 / np.array(values) for values in (speeds, others))
    return statistics.paired_ratio([theirs], [ours])


def _percentile_ratio(
    ours: list[Times], own: int, theirs: list[Times], other: int, *, paired: bool = False
) -> Estimate:
    """Of two percentiles, by their places in PERCENTILES: each resampled by itself, or the same blocks of both."""
    value = blocks.percentiles(ours)[own] / blocks.percentiles(theirs)[other]
    drawn = blocks.resampled(ours)[:, [own]] / blocks.resampled(theirs, seed=0 if paired else 1)[:, [other]]
    low, high = blocks.bounds(drawn)
    return Estimate(value=float(value), low=float(min(value, low[0])), high=float(max(value, high[0])), unit="×")


def _blocks(rate: Rate) -> list[Times]:
    return [part for each in rate.rounds for part in blocks.split(each.at_s, each.latency_ms)]


def _sum(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {key: sum(each.get(key, 0) for each in counts) for key in sorted({key for each in counts for key in each})}
