"""The recipes that may answer, the best first, each with its worker processes and its breaker."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import numpy as np

from vitquant.artifact import Artifact
from vitquant.errors import VitquantError, printable
from vitquant.serving import worker
from vitquant.serving.breaker import Breaker
from vitquant.serving.frames import Child, DiedError
from vitquant.serving.metrics import Metrics
from vitquant.serving.settings import Settings

FIRST_DELAY, LAST_DELAY = 0.1, 30.0  # seconds before a worker is started again, doubled each time that it does not load
MOST_SAID = 1 << 16  # bytes of a worker's answer beside logits
log = logging.getLogger(__name__)


class Slot:
    """A place for a worker process, in which one is started again whenever it ends."""

    def __init__(self, recipe: "Recipe") -> None:
        self.recipe = recipe
        self.child: Child | None = None
        """The process, warm; None while there is none."""
        self.busy = False

    async def keep(self) -> None:
        """Keep a process in it."""
        delay = FIRST_DELAY
        while True:
            child = await Child.start("vitquant.serving.worker", *self.recipe.arguments, most=self.recipe.most_bytes)
            try:
                self.recipe.warmed(await child.hear())
                delay, self.child = FIRST_DELAY, child
                self.recipe.changed()
                await child.ended()
            except (DiedError, VitquantError) as error:
                self.recipe.did_not_load(printable(error))
            finally:
                self.child = None
                child.kill()
            self.recipe.metrics.restarts.labels(self.recipe.name).inc()
            self.recipe.changed()
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_DELAY)


class Recipe:
    """One artifact of the chain.

    Args:
        artifact: opened; its worker processes open it again, and no other.
        number: its place in the chain.
        changed: called when it may serve, or may no longer.
    """

    def __init__(
        self,
        artifact: Artifact,
        number: int,
        settings: Settings,
        device: str,
        metrics: Metrics,
        changed: Callable[[], None],
    ) -> None:
        self.artifact, self.number, self.metrics, self.changed = artifact, number, metrics, changed
        self.name, self.sha256 = artifact.spec.recipe, artifact.sha256
        fallback, most = number > 0, 1 if artifact.spec.traits.batch_scales else settings.max_batch
        self.sizes = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
        threads = settings.threads * (settings.workers if fallback else 1)
        self.arguments = (str(artifact.path), self.sha256, str(threads), device, ",".join(map(str, self.sizes)))
        self.most_bytes = most * len(artifact.spec.classes) * 4 + MOST_SAID
        self.breaker = Breaker(settings.failures, settings.open_seconds)
        self.slots = [Slot(self) for _ in range(1 if fallback else settings.workers)]
        self.reason = "it is being loaded"
        """Why it has no worker."""
        self.unloadable = ""
        """What a worker said that could not load it."""
        self.settled = False
        """Whether it has been loaded, or was found not to load."""
        self.seconds = 0.0
        """That an image takes in a worker, of late."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Keep its workers."""
        self._tasks = [asyncio.create_task(slot.keep()) for slot in self.slots]

    async def end(self) -> None:
        """End them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def alive(self) -> bool:
        """Whether a worker is there."""
        return any(slot.child for slot in self.slots)

    @property
    def busy(self) -> bool:
        """Whether a worker has a batch."""
        return any(slot.busy for slot in self.slots)

    @property
    def serves(self) -> bool:
        """Whether it may be given an image now, or soon."""
        return self.alive and self.breaker.allows

    @property
    def goes_on(self) -> bool:
        """Whether it may finish what it has begun: its probe, too."""
        return self.alive and self.breaker.state != "open"

    def free(self) -> Slot | None:
        """A worker that has nothing to do."""
        return next((slot for slot in self.slots if slot.child and not slot.busy), None)

    def warmed(self, frame: bytes) -> None:
        """A worker has loaded it, or says why not.

        Raises:
            VitquantError: it says why not.
        """
        status, _ = worker.HEAD.unpack_from(frame)
        rest = frame[worker.HEAD.size :]
        if status == worker.FAILED:
            raise VitquantError(rest.decode("utf-8", "replace"))
        self.seconds = float(np.frombuffer(rest, np.float64)[0])
        self.settled, self.reason = True, "its worker ended"
        log.info("%s is warm: %.1f ms for one image", self.name, 1000 * self.seconds)

    def did_not_load(self, why: str) -> None:
        """A worker could not load it."""
        self.reason, self.unloadable = "its artifact does not load", why
        self.failed("load", why)
        self.settled = True

    def failed(self, kind: str, why: str) -> None:
        """Count a failure of it; where a worker cannot load it, another that has it goes on."""
        self.metrics.failures.labels(self.name, kind).inc()
        log.warning("%s failed (%s): %s", self.name, kind, why)
        if kind == "load" and self.alive:
            return
        self.breaker.failed()
        if self.breaker.state == "open":
            log.error("%s is left for %.0f s", self.name, self.breaker.opens_in)
            asyncio.get_running_loop().call_later(self.breaker.opens_in, self.changed)

    def state(self) -> str:
        """In words, for people; nothing of the server's."""
        if not self.alive:
            return self.reason
        return "it serves" if self.breaker.state == "closed" else "it failed too often, and is left for a while"


def check_alike(artifacts: list[Artifact]) -> None:
    """See that a chain's artifacts may stand in for each other.

    Raises:
        VitquantError: two are of one recipe, or of other classes or preprocessing, or one cannot be run.
    """
    first, names = artifacts[0], set()
    for artifact in artifacts:
        spec = artifact.spec
        if spec.classes != first.spec.classes or spec.preprocessing != first.spec.preprocessing:
            raise VitquantError(
                f"{artifact.path} has other classes or another preprocessing than {first.path}: "
                "name artifacts of one study as fallback"
            )
        if spec.recipe in names:
            raise VitquantError(f"{artifact.path} is of a recipe, {spec.recipe}, that is named already: leave it out")
        names.add(spec.recipe)


@contextlib.asynccontextmanager
async def kept(recipes: list[Recipe]) -> AsyncIterator[None]:
    """Keep the workers of all of them, and of those that take their places in the list, until left."""
    for recipe in recipes:
        recipe.start()
    try:
        yield
    finally:
        await asyncio.gather(*(recipe.end() for recipe in recipes))
