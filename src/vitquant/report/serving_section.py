"""What the report says of the server under load."""

from collections.abc import Sequence
from statistics import median

from vitquant.analysis import serving as analysis
from vitquant.analysis.findings import Estimate
from vitquant.report.tables import table
from vitquant.report.text import MISSING, code, escape, inline, interval, listing, number, shown
from vitquant.results.serving import OK, REFUSED, Rate, Serving, Soak

NONE = (
    "The server under load was not measured with these artifacts on this machine: `make loadtest` does, and "
    "[docs/serving.md](../docs/serving.md#the-study-of-it) says how."
)
BRIEF = "**This was a trial of the code, too short to say anything.** "


def section(found: Serving | None, gpus: Sequence[Serving] = ()) -> str:
    """Goals, throughput, latency by rate of arrivals, failures and memory, or how to measure them; and GPUs beside."""
    parts = _own(found) if found else [NONE]
    return "\n\n".join([*parts, *(_beside([*([found] if found else []), *gpus], gpus) if gpus else [])])


def _own(found: Serving) -> list[str]:
    machine = found.environment
    missing = "".join(f" {code(name)} was not served: {escape(why)}." for name, why in found.unavailable.items())
    twice = "".join(f" Of {escape(part)}, twice, others had {pct:.0f} %." for part, pct in found.disturbed.items())
    rounds = len(found.throughput[0].images_per_s)
    return [
        f"{BRIEF if found.brief else ''}`vitquant serve` on the loopback, asked by a client on the same "
        f"{machine.cores} cores, measured {escape(found.date)} at commit {escape(machine.git_commit[:12])} in "
        f"{found.conditions.seconds / 60:.0f} minutes. Throughput, rates and the way over HTTP were measured once more "
        f"where other processes had more than a twentieth of the cores' time.{twice} Requests are single JPEG files "
        f"unless it says otherwise.{missing}",
        f"Of {code(found.subject)}, what was to be reached and what came out; a ratio is *not shown* to reach its "
        f"goal or to miss it where its interval holds that:\n\n{_goals(found)}",
        *_ideal(found),
        *_cpu(found),
        f"Saturated (a closed loop), with the range over {rounds} rounds; ratios are of the same rounds:\n\n"
        f"{_throughput(found)}",
        "At random times (an open loop), whose rate is a share of what the server with one worker and batch limit 1 "
        f"does; latency counts from when a request was to be sent:\n\n{_rates(found)}",
        _kills(found),
        *([_memory(found.soak)] if found.soak else []),
    ]


def _goals(found: Serving) -> str:
    return table(
        (
            {
                "what": inline(goal.what),
                "goal": f"{'≥' if goal.more else '≤'} {goal.wanted:g} {goal.unit}".rstrip(),
                "measured": shown(goal.measured, goal.form),
                "verdict": f"**{goal.verdict}**",
            }
            for goal in analysis.goals(found)
        ),
        text_columns=4,
    )


def _ideal(found: Serving) -> list[str]:
    ideal = analysis.ideal(found)
    if not ideal:
        return []
    split = (
        ""
        if ideal.split_p99 is None
        else f"; workers of one thread, as many as cores, as fast as ours are when saturated, {ideal.split_p99:.2f} ×"
    )
    return [
        f"Requests wait for each other even where a server adds nothing: sent at the same times, at "
        f"{100 * analysis.MODERATE:.0f} % of capacity, to one that takes the bare median, {ideal.service_ms:.1f} ms, "
        f"for each, they have a p99 of {ideal.p99:.2f} × that "
        f"([how](../docs/method.md#the-server-under-load)){split}. The measured p99 is "
        f"{shown(ideal.ours, '.2f')} × the first of these."
    ]


def _cpu(found: Serving) -> list[str]:
    shares = {kind: taken for kind, taken in found.paths.cpu_ms.items() if kind != "worker"}
    if not shares:
        return []
    parts = listing([f"{escape(kind)} {number(taken, '.2f')}" for kind, taken in shares.items()])
    return [
        f"Of a request with pixels the server's processes other than the worker take, in milliseconds of a core: "
        f"{parts}. The client's come on top; a worker with several threads waits as a whole where one core is taken."
    ]


def _throughput(found: Serving) -> str:
    rows = []
    for each in found.throughput:
        server, speeds = each.server, each.images_per_s
        others = {name: count for name, count in each.outcomes.items() if name != OK}
        rows.append(
            {
                "recipe": escape(server.recipe),
                "workers × threads": f"{server.workers} × {server.threads}",
                "batch limit": str(server.max_batch),
                "clients": str(each.clients),
                "images/s": shown(median(speeds), ".1f", (min(speeds), max(speeds))),
                "× the first of its recipe": shown(analysis.ratio_to_default(found, each), ".3f"),
                "not answered": _counts(others),
            }
        )
    return table(rows)


def _rates(found: Serving) -> str:
    rows = []
    order = list(found.artifacts)
    for rate in sorted(found.rates, key=lambda rate: (order.index(rate.recipe), rate.share)):
        outcomes, times = analysis.outcomes(rate), analysis.latencies(rate)
        others = {name: count for name, count in outcomes.items() if name not in (OK, REFUSED)}
        rows.append(
            {
                "recipe": escape(rate.recipe),
                "% of capacity": f"{100 * rate.share:.0f}",
                "requests/s": f"{rate.rate:.1f}",
                "requests": f"{sum(outcomes.values()):,}",
                **{f"p{percent}, ms": _milliseconds(times.get(percent)) for percent in (50, 95, 99)},
                "503, %": f"{100 * outcomes.get(REFUSED, 0) / max(1, sum(outcomes.values())):.1f}",
                "other errors": _counts(others),
                "answered by": _counts(analysis.answered_by(rate)),
            }
        )
    return table(rows)


def _milliseconds(estimate: Estimate | None) -> str:
    if not estimate:
        return shown(None, "")
    form = ".1f" if estimate.value < 100 else ",.0f"  # noqa: PLR2004
    return f"{number(estimate.value, form)} {interval(estimate, form)}"


def _kills(found: Serving) -> str:
    kills, subject = found.kills, code(found.subject)
    lost, twice = analysis.unaccounted(found)
    return (
        f"The worker of {subject} was killed (SIGKILL) {len(kills.again_s)} times, every {kills.every:g} s, under a "
        f"closed loop, with {code(kills.fallback)} to fall back on. Of {sum(kills.outcomes.values()):,} requests "
        f"{kills.outcomes.get(OK, 0):,} were answered ({_counts(kills.recipes)}) and "
        f"{kills.outcomes.get(REFUSED, 0):,} refused with 503; {lost} were lost and {twice} answered twice, by the "
        f"server's own count. Until a request sent after a kill was answered it took {_span(kills.again_s)}, until "
        f"{subject} itself answered one {_span(kills.own_s)}. From start to ready it takes {_span(found.starts_s)}."
    )


def _memory(soak: Soak) -> str:
    first, settled, last = (soak.resident_bytes[look] / 1e6 for look in (0, 1, -1))
    return (
        f"Memory over {soak.requests[-1] - soak.requests[0]:,} requests in {soak.seconds:.0f} s, so many by an "
        f"artifact of {code(soak.architecture)}, tiny and with random weights: all processes of the server together "
        f"have {first:.0f} MB resident after {soak.requests[0]:,} requests, {settled:.0f} after "
        f"{soak.requests[1]:,} and {last:.0f} after all."
    )


def _beside(machines: Sequence[Serving], gpus: Sequence[Serving]) -> list[str]:
    """Every machine's throughput and latency, a row per recipe and kind of request, and what else there is of GPUs."""
    return [
        "### Machines",
        "Saturated, in images/s by batch limit, with one worker; the median over rounds:\n\n"
        + table([row for each in machines for row in _machine_speeds(each, gpus)], text_columns=3),
        "At random times, p50 and p99 in milliseconds of what was answered, by share of what the server with batch "
        "limit 1 does:\n\n"
        + table([row for each in machines for row in _machine_latencies(each, gpus)], text_columns=3),
        *map(_gpu, gpus),
    ]


def _machine_speeds(found: Serving, gpus: Sequence[Serving]) -> list[dict[str, str]]:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for size in sorted({one.server.max_batch for each in gpus for one in each.throughput}):
        for one in found.throughput:
            if one.server.workers == 1:
                row = rows.setdefault((one.server.recipe, one.sent), _row(found, one.server.recipe, one.sent))
                row.setdefault(f"limit {size}", MISSING)
                if one.server.max_batch == size:
                    row[f"limit {size}"] = f"{median(one.images_per_s):,.0f}"
    return list(rows.values())


def _machine_latencies(found: Serving, gpus: Sequence[Serving]) -> list[dict[str, str]]:
    shares = sorted({rate.share for each in gpus for rate in each.rates})
    by_row: dict[tuple[str, str], dict[float, Rate]] = {}
    for rate in found.rates:
        by_row.setdefault((rate.recipe, rate.sent), {})[rate.share] = rate
    rows = []
    for (recipe, sent), rates in by_row.items():
        some = next(iter(rates.values()))
        cells = {f"{100 * share:.0f} %": _middle_and_tail(rates.get(share)) for share in shares}
        rows.append(_row(found, recipe, sent) | {"100 % is, requests/s": f"{some.rate / some.share:,.0f}"} | cells)
    return rows


def _row(found: Serving, recipe: str, sent: str) -> dict[str, str]:
    machine = found.environment.gpu if found.device == "cuda" else found.environment.cpu
    return {"machine": escape(machine), "recipe": escape(recipe), "request": "JPEG" if sent == "files" else "pixels"}


def _middle_and_tail(rate: Rate | None) -> str:
    times = analysis.latencies(rate) if rate else {}
    if not rate or not times:
        return MISSING
    outcomes = analysis.outcomes(rate)
    refused = 100 * outcomes.get(REFUSED, 0) / sum(outcomes.values())
    return f"{times[50].value:,.1f}, {times[99].value:,.1f}" + (f" ({refused:.1f} % 503)" if refused else "")


def _gpu(found: Serving) -> str:
    machine, paths, subject = found.environment, found.paths, code(found.subject)
    predict, files, bare, pixels = (
        f"{median(each):,.0f}" for each in (paths.predict, paths.files, paths.bare, paths.pixels)
    )
    return (
        f"{BRIEF if found.brief else ''}{escape(machine.gpu)}: {code(found.architecture)}, with {machine.cores} "
        f"cores of {escape(machine.cpu)} and PyTorch {escape(machine.torch)}, measured {escape(found.date)} at commit "
        f"{escape(machine.git_commit[:12])} in {found.conditions.seconds / 60:.0f} minutes. Of {subject}, "
        f"`vitquant predict` takes {predict} of the same files a second, HTTP {files}; the bare model takes {bare} "
        f"images a second, one after the other, HTTP with pixels {pixels}. {_kills(found)}"
    )


def _span(seconds: list[float]) -> str:
    least, most = f"{min(seconds):.2f}", f"{max(seconds):.2f}"
    return f"{least} s" if least == most else f"{least} to {most} s"


def _counts(counts: dict[str, int]) -> str:
    return listing([f"{escape(name)} {count:,}" for name, count in counts.items()] or ["none"])
