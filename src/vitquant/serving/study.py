"""The study of serving: the real server, on this machine, with the study's artifacts and images."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar

from PIL import Image

from vitquant import cpu
from vitquant.artifact import open_artifact
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import nvml
from vitquant.measure.conditions import Watch
from vitquant.measure.environment import environment
from vitquant.results.serving import Device, Rate, Serving, Throughput
from vitquant.serving import capacity, harm
from vitquant.serving.plan import Plan
from vitquant.serving.spawned import Spawned, spawned

QUALITY = 95  # of the JPEG files that are sent
TIMES = 2  # that a disturbed part is measured
Found = TypeVar("Found")
P = ParamSpec("P")
Way = tuple[int, int, int]
SLOW = {"deadline_ms": 60_000, "queue": 128}  # a server whose batches wait for each other refuses nothing


def measure(
    artifacts: Path,
    data: Path,
    names: Sequence[str],
    fallback: str,
    device: Device,
    plan: Plan,
    say: Callable[[str], None],
) -> Serving:
    """Measure all that `Serving` holds.

    Args:
        artifacts: a folder of them, by recipe.
        data: the prepared data.
        names: of the recipes, the first of them the one that is looked at most.
        fallback: the recipe that answers while the first one's worker is killed.
        device: cpu or cuda, of all servers.
        say: is told what comes next.

    Raises:
        VitquantError: an artifact or the data is missing or damaged, a server does not become ready, or none of the
            recipes can run here.
    """
    unavailable = {name: why for name in names if (why := open_artifact(artifacts / name).spec.unavailable)}
    usable = {name: artifacts / name for name in dict.fromkeys(names) if name not in unavailable}
    if not usable:
        raise VitquantError(f"none of {', '.join(names)} can run here: name others by --recipe")
    (subject, path), *_ = usable.items()
    watch, throughput, rates = Watch(), list[Throughput](), list[Rate]()
    parts = Parts(plan.max_busy_pct, say)
    with TemporaryDirectory() as name:
        folder = Path(name)
        images = _jpegs(Prepared(data), folder)
        for recipe, own in usable.items():
            shares, rounds = plan.shares, plan.open_rounds
            if recipe == subject:
                shares, rounds = (*shares, *plan.more_shares), plan.more_open_rounds
            for kind in plan.kinds:
                part = f"{recipe}: throughput by workers and by batch limit, with {kind}"
                with _servers(folder, own, device, _ways(plan)) as servers:
                    found = parts.measure(part, capacity.throughput, servers, recipe, images, kind, plan)
                throughput += found
                part, best = f"{recipe}: latency by rate of arrivals, with {kind}", median(found[0].images_per_s)
                with _servers(folder, own, device, _ways(plan)[:1]) as servers:
                    (whole,) = servers.values()
                    loops = (best, shares, rounds, plan.open_seconds)
                    rates += parts.measure(part, capacity.rates, whole, recipe, images, kind, *loops)
        part = f"{subject}: the way over HTTP beside others"
        with _servers(folder, path, device, _ways(plan)[: 1 + plan.split]) as servers:
            whole, *others = servers.values()
            split = others[0] if others else whole
            paths = parts.measure(part, capacity.paths, path, split, whole, images, cpu.cores(), device, plan)
        say(f"{subject}: its worker is killed, {plan.kills} times")
        starts = []
        for number in range(plan.starts):
            with spawned(folder, path, artifacts / fallback, device=device, max_batch=1) as server:
                starts.append(round(server.start_s, 3))
                if number == plan.starts - 1:
                    server.await_recipe(fallback)
                    kills = harm.kill(server, path, fallback, images, plan)
        soak = None
        if plan.soak_requests:
            say("memory over many requests to a tiny artifact")
            soak = harm.soak(path, images, folder, plan)
    gpu = nvml.describe() if device == "cuda" else {}
    return Serving(
        date=datetime.now(UTC).date().isoformat(),
        environment=environment(threads=cpu.cores(), **gpu),
        conditions=watch.conditions(),
        disturbed=parts.disturbed,
        brief=plan.brief,
        device=device,
        architecture=open_artifact(path).spec.architecture,
        artifacts={recipe: open_artifact(own).sha256 for recipe, own in usable.items()},
        unavailable=unavailable,
        starts_s=starts,
        throughput=throughput,
        rates=rates,
        paths=paths,
        kills=kills,
        soak=soak,
    )


class Parts:
    """Parts of the study, each measured once more where other processes had too much of the cores' time."""

    def __init__(self, max_busy_pct: float, say: Callable[[str], None]) -> None:
        self._most, self._say = max_busy_pct, say
        self.disturbed: dict[str, float] = {}
        """By those of the second time, too: what others had, in percent."""

    def measure(self, name: str, part: Callable[P, Found], *args: P.args, **kwargs: P.kwargs) -> Found:
        """What `part` finds."""
        self._say(name)
        for number in range(TIMES):
            watch = Watch()
            found = part(*args, **kwargs)
            if (busy := watch.conditions().busy_pct) <= self._most:
                return found
            self._say(f"others had {busy:.0f} % of the cores' time" + ("" if number else ": once more"))
        self.disturbed[name] = busy
        return found


def _jpegs(prepared: Prepared, folder: Path) -> list[Path]:
    """The study's own image files, as JPEG."""
    files = []
    for number, content in enumerate(prepared.files()):
        files.append(folder / f"{number:03}.jpg")
        Image.open(io.BytesIO(content)).convert("RGB").save(files[-1], quality=QUALITY)
    return files


def _ways(plan: Plan) -> list[Way]:
    """One worker of all cores, a worker for each, and batches. On a GPU only one worker has it: no second."""
    cores = cpu.cores()
    split = [(cores, 1, 1)] if plan.split else []
    return [(1, cores, 1), *split, *((1, cores, batch) for batch in plan.batches if batch > 1)]


@contextmanager
def _servers(folder: Path, artifact: Path, device: Device, ways: Sequence[Way]) -> Iterator[dict[Way, Spawned]]:
    """Servers by their workers, threads and batch limit, which end when left; no other is there meanwhile."""
    with ExitStack() as stack:
        yield {
            (workers, threads, batch): stack.enter_context(
                spawned(
                    folder,
                    artifact,
                    device=device,
                    workers=workers,
                    threads=threads,
                    max_batch=batch,
                    **(SLOW if batch > 1 else {}),
                )
            )
            for workers, threads, batch in dict.fromkeys(ways)
        }
