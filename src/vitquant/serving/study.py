"""The study of serving: the real server, on this machine, with the study's artifacts and images."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

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
    with TemporaryDirectory() as name:
        folder = Path(name)
        images = _jpegs(Prepared(data), folder)
        for recipe, own in usable.items():
            say(f"{recipe}: its servers start")
            with _servers(folder, own, device, plan) as servers:
                whole = servers[1, cpu.cores(), 1]
                shares = (*plan.shares, *(plan.more_shares if recipe == subject else ()))
                for kind in plan.kinds:
                    say(f"{recipe}: throughput by workers and by batch limit, with {kind}")
                    found = capacity.throughput(servers, recipe, images, kind, plan)
                    throughput += found
                    say(f"{recipe}: latency by rate of arrivals, with {kind}")
                    best = median(found[0].images_per_s)
                    rates += capacity.rates(whole, recipe, images, kind, best, shares, plan)
                if recipe == subject:
                    say(f"{recipe}: the way over HTTP beside others")
                    split = servers.get((cpu.cores(), 1, 1), whole)
                    paths = capacity.paths(own, split, whole, images, cpu.cores(), device, plan)
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


def _jpegs(prepared: Prepared, folder: Path) -> list[Path]:
    """The study's own image files, as JPEG."""
    files = []
    for number, content in enumerate(prepared.files()):
        files.append(folder / f"{number:03}.jpg")
        Image.open(io.BytesIO(content)).convert("RGB").save(files[-1], quality=QUALITY)
    return files


@contextmanager
def _servers(folder: Path, artifact: Path, device: Device, plan: Plan) -> Iterator[dict[tuple[int, int, int], Spawned]]:
    """Servers by their workers, threads and batch limit: one worker of all cores, a worker for each, and batches.

    On a GPU only one worker has it, and the second is left out.
    """
    cores = cpu.cores()
    split = [(cores, 1, 1)] if plan.split else []
    ways = [(1, cores, 1), *split, *((1, cores, batch) for batch in plan.batches if batch > 1)]
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
