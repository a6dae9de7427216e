"""How much a server does, and how long it takes at a rate of arrivals: rounds in which each is asked in turn."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vitquant.errors import VitquantError
from vitquant.results.serving import Arrivals, Device, Paths, Rate, Server, Throughput
from vitquant.serving import many
from vitquant.serving.loadtest import OK, Kind, Sent, Target
from vitquant.serving.model import load, load_for_many
from vitquant.serving.plan import Plan
from vitquant.serving.spawned import Spawned

TIMEOUT = 30.0  # seconds that an answer is waited for: longer than any server's deadline here, but those of batches


def closed(url: str, images: Sequence[Path], kind: Kind, clients: int, seconds: float) -> list[Sent]:
    """What becomes of the requests of a closed loop."""
    return asyncio.run(Target(url, images, kind, 1, TIMEOUT).closed(clients, seconds))


def outcomes(sent: Sequence[Sent]) -> dict[str, int]:
    """How many had which."""
    return dict(sorted(Counter(each.outcome for each in sent).items()))


def answered_by(sent: Sequence[Sent]) -> dict[str, int]:
    """How many each recipe answered."""
    return dict(sorted(Counter(each.recipe or "unknown" for each in sent if each.outcome == OK).items()))


def _images_per_s(sent: Sequence[Sent], seconds: float) -> float:
    """Answered, from the start to the last answer."""
    answered = [each for each in sent if each.outcome == OK]
    if not answered:
        raise VitquantError(f"a server under load answered nothing in {seconds:g} s: {outcomes(sent)}")
    return round(len(answered) / max(seconds, *(each.at + each.seconds for each in answered)), 3)


def throughput(
    servers: Mapping[tuple[int, int, int], Spawned], recipe: str, images: Sequence[Path], kind: Kind, plan: Plan
) -> list[Throughput]:
    """Of the servers of a recipe, by their workers, threads and batch limit: each in a closed loop, in every round."""
    rng, found = np.random.default_rng(0), {key: list[float]() for key in servers}
    counts: dict[tuple[int, int, int], Counter[str]] = {key: Counter() for key in servers}
    clients = {key: max(plan.clients, 2 * key[0] * key[2]) for key in servers}
    for _ in range(plan.rounds):
        for index in rng.permutation(len(servers)):
            key, server = list(servers.items())[index]
            sent = closed(server.url, images, kind, clients[key], plan.visit)
            found[key].append(_images_per_s(sent, plan.visit))
            counts[key].update(outcomes(sent))
    return [
        Throughput(
            server=Server(recipe=recipe, workers=key[0], threads=key[1], max_batch=key[2]),
            sent=kind,
            clients=clients[key],
            images_per_s=speeds,
            outcomes=dict(counts[key]),
        )
        for key, speeds in found.items()
    ]


def rates(
    server: Spawned,
    recipe: str,
    images: Sequence[Path],
    kind: Kind,
    capacity: float,
    shares: Sequence[float],
    number_of_rounds: int,
    seconds: float,
) -> list[Rate]:
    """Open loops at shares of a capacity, in images a second; every round has each of them, for so many seconds."""
    rng, rounds = np.random.default_rng(0), {share: list[Arrivals]() for share in shares}
    target = Target(server.url, images, kind, 1, TIMEOUT)
    for number in range(number_of_rounds):
        for share in map(float, rng.permutation(shares)):
            sent = asyncio.run(target.open(share * capacity, seconds, number))
            answered = [each for each in sent if each.outcome == OK]
            rounds[share].append(
                Arrivals(
                    seconds=seconds,
                    at_s=[round(each.at, 4) for each in answered],
                    latency_ms=[round(1000 * each.seconds, 3) for each in answered],
                    outcomes=outcomes(sent),
                    recipes=answered_by(sent),
                )
            )
    return [
        Rate(recipe=recipe, sent=kind, share=share, rate=round(share * capacity, 4), rounds=each)
        for share, each in rounds.items()
    ]


def paths(
    artifact: Path, split: Spawned, whole: Spawned, images: Sequence[Path], cores: int, device: Device, plan: Plan
) -> Paths:
    """The same images through `vitquant predict`'s own path, HTTP, and the bare model; every round has each of them.

    Args:
        split: a server of the artifact with a worker for each core; on a GPU the same as `whole`.
        whole: one with a worker of `cores` threads.
    """
    one_core_each, threads = load_for_many(artifact, device)
    model = load(artifact, cores, device)
    pixels = [model.artifact.spec.preprocessing.pixels(image) for image in images]
    bare_ms: list[list[float]] = []
    cpu_s: dict[str, float] = defaultdict(float)  # and how many answers there were
    repeats = 4  # of the images, in a call: what ends on one core alone is a small part of it

    def predict(seconds: float) -> float:
        start, number = time.perf_counter(), 0
        while (taken := time.perf_counter() - start) < seconds:
            number += len(list(many.predict(one_core_each, threads, list(images) * repeats)))
        return number / taken

    def bare(seconds: float) -> float:
        times, start = list[float](), time.perf_counter()
        while len(times) < 2 or time.perf_counter() - start < seconds:  # noqa: PLR2004
            began = time.perf_counter()
            model.logits(pixels[len(times) % len(pixels)][None])
            times.append(1000 * (time.perf_counter() - began))
        bare_ms.append([round(each, 4) for each in times])
        return len(times) / (time.perf_counter() - start)

    def over_http(server: Spawned, kind: Kind) -> Callable[[float], float]:
        return lambda seconds: _images_per_s(closed(server.url, images, kind, plan.clients, seconds), seconds)

    def bare_split(seconds: float) -> float:
        start, number = time.perf_counter(), 0
        while (taken := time.perf_counter() - start) < seconds:
            number += len(list(threads.map(one_core_each.logits, [each[None] for each in pixels] * repeats)))
        return number / taken

    def pixels_whole(seconds: float) -> float:
        before, count = whole.cpu_seconds(), whole.counted()
        speed = over_http(whole, "pixels")(seconds)
        for process, taken in whole.cpu_seconds().items():
            cpu_s[process] += taken - before[process]
        cpu_s["answers"] += whole.counted() - count
        return speed

    ways = {
        "predict": predict,
        "files": over_http(split, "files"),
        "bare": bare,
        "pixels": pixels_whole,
    }
    if split is not whole:
        ways |= {"bare_split": bare_split, "pixels_split": over_http(split, "pixels")}
    rng, found = np.random.default_rng(0), {name: list[float]() for name in ways}
    with threads:
        list(many.predict(one_core_each, threads, list(images) * repeats))  # a GPU compiles what is new to it
        model.logits(pixels[0][None])
        for _ in range(plan.rounds):
            for name in map(str, rng.permutation(list(ways))):
                found[name].append(round(ways[name](plan.visit), 3))
    answers = cpu_s.pop("answers")
    cpu_ms = {process: round(1000 * taken / answers, 3) for process, taken in cpu_s.items()}
    return Paths(**found, bare_ms=bare_ms, cpu_ms=cpu_ms)
