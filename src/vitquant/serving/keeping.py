"""Some of the served images are kept, after they were answered: a sample to calibrate with, by whoever wants that."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray

from vitquant.monitoring.reservoir import Reservoir
from vitquant.serving.metrics import Metrics
from vitquant.serving.settings import Keeping

WAITING = 32  # images that wait to be written at most
log = logging.getLogger(__name__)


class Keeper:
    """Draws images when they are offered, and writes them in a thread; what cannot be written is counted, and said.

    Args:
        side: of the images, pixels.

    Raises:
        VitquantError: as Reservoir.
    """

    def __init__(self, keeping: Keeping, side: int, metrics: Metrics) -> None:
        self._folder, self._metrics, self._failing = keeping.folder, metrics, False
        self._reservoir = Reservoir(keeping.folder, keeping.keep, side)
        self._waiting: asyncio.Queue[tuple[int, NDArray[np.uint8]]] = asyncio.Queue(WAITING)
        log.info("%s: a sample of %d of the images is kept; seen before: %d", self._folder, keeping.keep,
                 self._reservoir.seen)  # fmt: skip

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write what waits, until left."""
        task = asyncio.create_task(self._write())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                self._reservoir.close()
            except OSError as error:
                log.error("%s: %s", self._folder, error.strerror)

    def offer(self, images: NDArray[np.uint8]) -> None:
        """Draw among a request's images, uint8 (N, side, side, 3)."""
        for pixels in images:
            if (place := self._reservoir.draw()) is None:
                continue
            try:
                self._waiting.put_nowait((place, pixels.copy()))
            except asyncio.QueueFull:
                self._metrics.not_kept.labels("behind").inc()

    async def _write(self) -> None:
        while True:
            place, pixels = await self._waiting.get()
            try:
                await asyncio.to_thread(self._reservoir.put, place, pixels)
            except OSError as error:
                self._metrics.not_kept.labels("disk").inc()
                if not self._failing:
                    log.error("%s: %s: images are not kept, and counted; serving goes on", self._folder, error.strerror)
                self._failing = True
            else:
                self._metrics.kept.inc()
                self._failing = False
