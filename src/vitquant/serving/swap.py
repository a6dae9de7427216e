"""A new artifact in the place of the first one, without losing a request, and back where it does harm."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vitquant.artifact import Artifact
from vitquant.errors import VitquantError, printable
from vitquant.serving.chain import Recipe
from vitquant.serving.dispatch import Dispatcher
from vitquant.serving.metrics import Metrics
from vitquant.serving.model import open_classifier

if TYPE_CHECKING:
    from vitquant.serving.shadow import Shadow

LOOK = 0.02  # seconds between two looks at whether workers are warm, or have answered
SAME = ("recipe", "architecture", "pooling", "classes", "preprocessing")  # of the two artifacts
log = logging.getLogger(__name__)


def open_now(path: Path) -> Artifact:
    """Open the classifier in a folder, or where a link leads now: workers open that one, however the link moves.

    Raises:
        VitquantError: it is damaged, or has no classes.
    """
    place = path.resolve()
    return open_classifier(path if place == path.absolute() else place)


class Swapper:
    """On SIGHUP the first artifact is read again, loaded and warmed up beside the old one, and takes its place.

    Where images are compared with FP32, the old one's workers stay for the probation, and answer again when the new one
    raises the alarm.

    Args:
        path: of the first artifact, as the command line has it.
        make: the first recipe of the chain with another artifact.
        probation: seconds.
    """

    def __init__(
        self,
        path: Path,
        make: Callable[[Artifact], Recipe],
        dispatcher: Dispatcher,
        shadow: "Shadow | None",
        probation: float,
        metrics: Metrics,
    ) -> None:
        self._path, self._make, self._dispatcher, self._metrics = path, make, dispatcher, metrics
        self._shadow, self._probation, self._until = shadow, probation, 0.0
        self._before: Recipe | None = None  # while the first one is on probation
        self._asked, self._news = False, asyncio.Event()
        if shadow:
            shadow.on_alarm = self._news.set

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen to SIGHUP, until left."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._ask)
        task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._before:
                await self._before.end()

    def _ask(self) -> None:
        self._asked = True
        self._news.set()

    async def _keep(self) -> None:
        """Do what there is to do, one thing after the other."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._until if self._before else None):
                    await self._news.wait()
            self._news.clear()
            if self._before:
                await self._judge(self._before)
            if self._asked:
                self._asked = False
                await self._swap()

    async def _judge(self, before: Recipe) -> None:
        """End the probation, if there is a reason to."""
        now = self._dispatcher.recipes[0]
        if self._shadow and self._shadow.alarmed(now.sha256):
            self._before = None
            if not before.alive:
                log.error("%s raised the alarm and goes on: the one before it has no worker", now.artifact.path)
                await before.end()
                return
            log.error("%s raised the alarm: %s answers again", now.artifact.path, before.artifact.path)
            self._shadow.watch(before.artifact, before.sha256)
            self._metrics.swaps.labels("back").inc()
            await _drained(self._dispatcher.put_first(before))
        elif asyncio.get_running_loop().time() >= self._until:
            self._before = None
            log.info("%s: the probation is over", now.artifact.path)
            await _drained(before)

    async def _swap(self) -> None:
        """Let the artifact that is there now answer; the one that does goes on where that cannot be."""
        try:
            new = await self._load()
        except (VitquantError, OSError) as error:
            log.error("%s: %s: the artifact from before goes on", self._path, printable(error))
            self._metrics.swaps.labels("refused").inc()
            return
        if self._shadow:
            self._shadow.watch(new.artifact, new.sha256)
        before = self._dispatcher.put_first(new)
        self._metrics.swaps.labels("new").inc()
        log.info("%s answers", new.artifact.path)
        if self._shadow:
            self._until = asyncio.get_running_loop().time() + self._probation
            if not self._before:  # else that one has proved itself, and this has not
                self._before = before
                return
        await _drained(before)

    async def _load(self) -> Recipe:
        """Warm workers of the artifact that is there now.

        Raises:
            VitquantError: it is damaged, does not load, or may not take the place of the first.
        """
        artifact, now = await asyncio.to_thread(open_now, self._path), self._dispatcher.recipes[0]
        new = self._make(artifact)
        other = [key for key in SAME if getattr(artifact.spec, key) != getattr(now.artifact.spec, key)]
        if other:
            raise VitquantError(f"it differs in {other[0]} from the artifact that answers: start a server of its own")
        if new.sha256 == now.sha256:
            raise VitquantError("it is the artifact that answers already")
        if self._shadow and self._shadow.alarmed(new.sha256):
            raise VitquantError("it has raised the alarm before")
        new.start()
        try:
            while not all(slot.child for slot in new.slots):
                if new.unloadable:
                    raise VitquantError(f"it does not load: {new.unloadable}")
                await asyncio.sleep(LOOK)
        except BaseException:
            await new.end()
            raise
        return new


async def _drained(recipe: Recipe) -> None:
    """End a recipe that is given no more images, when it has answered what it has."""
    while recipe.busy:
        await asyncio.sleep(LOOK)
    await recipe.end()
