"""A random sample of the served images is also given to FP32, after they were answered; what comes of it is logged."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from safetensors.numpy import save

from vitquant import files
from vitquant.artifact import Artifact
from vitquant.errors import VitquantError, printable
from vitquant.monitoring import ranges, records, sequential
from vitquant.monitoring.log import Log
from vitquant.monitoring.records import Head, Image, Watched
from vitquant.params import BASELINE
from vitquant.serving import chain, worker
from vitquant.serving.chain import FIRST_DELAY, LAST_DELAY, MOST_SAID
from vitquant.serving.frames import Child, DiedError
from vitquant.serving.metrics import Metrics
from vitquant.serving.model import open_classifier, probabilities
from vitquant.serving.settings import Shadowing

IMAGES = "images"  # the folder of those that are kept, in the log's
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A sampled image that waits."""

    id: str
    sha256: str
    """Of the artifact that answered."""
    pixels: NDArray[np.uint8]
    """(side, side, 3)."""
    logits: NDArray[np.float32]
    """That were answered, (C,)."""


class Shadow:
    """Takes the sample, and keeps the process that computes, at the lowest priority.

    What `offer` does takes no time that counts; all else is done between requests, or by other threads and processes.

    Args:
        artifacts: the chain.

    Raises:
        VitquantError: the FP32 artifact is damaged or of another study, or the log is another server's or study's.
    """

    def __init__(self, artifacts: list[Artifact], shadowing: Shadowing, metrics: Metrics) -> None:
        self._shadowing, self._metrics = shadowing, metrics
        self._fp32 = open_classifier(shadowing.fp32)
        chain.check_alike([self._fp32, artifacts[0]])
        self._classes, self._fp32_sha256 = artifacts[0].spec.classes, self._fp32.sha256
        self._waiting: asyncio.Queue[Item] = asyncio.Queue(shadowing.waiting)
        self._watched: dict[str, Watched] = {}
        self._others: dict[str, Watched] = {}
        self._ranges: dict[str, bytes] = {}  # of those watched, as the process takes them
        self.on_alarm: Callable[[], None] = lambda: None
        """Called when one is raised."""
        self._skipped = self._kept = 0
        self._random = random.Random()
        self._log = Log(shadowing.log)
        self._resume(artifacts)

    def _resume(self, artifacts: list[Artifact]) -> None:
        """Go on with what the log knows of these artifacts, and keep what it knows of others."""
        history = self._log.last
        known = self._others = {each.sha256: each for each in history.heads[0].watched} if history.heads else {}
        if history.heads and history.heads[0].classes != self._classes:
            raise VitquantError(f"{self._shadowing.log} is the log of another study: give --log another folder")
        for image in history.images:
            if image.sha256 in known:
                known[image.sha256].add(image.differs)
        for number, artifact in enumerate(artifacts):
            self.watch(artifact, artifact.sha256, first=not number)
        folder = self._shadowing.log / IMAGES
        self._kept = sum(1 for _ in folder.glob("*.png")) if folder.is_dir() else 0

    def watch(self, artifact: Artifact, sha256: str, *, first: bool = True) -> None:
        """See images of this artifact from now on, too, and go on with what the log knows of it.

        Args:
            sha256: its digest.
            first: it is the first of the chain, whose agreement the command line may tell.
        """
        name = artifact.spec.recipe
        if name == BASELINE:
            log.info("%s is not compared: it is fp32 itself", artifact.path)
            return
        bound = self._shadowing.bounds.get(name)
        if first and self._shadowing.bound is not None:
            bound = self._shadowing.bound
        watched = self._watched.get(sha256) or self._others.pop(sha256, None)
        if watched is None or watched.bound != bound:  # another test, which begins now
            watched = Watched(bound=bound, recipe=name, sha256=sha256)
        self._watched[sha256] = watched
        if sha256 not in self._ranges:  # else another artifact may lie in its folder by now
            self._ranges[sha256] = save(ranges.calibrated(artifact, self._fp32))
        self._metrics.alarm.labels(name).set(float(watched.alarm is not None))
        if bound is None:
            log.info("%s: no agreement is known, and so nothing alarms: give --agreement", name)
        else:
            log.info("%s: alarm if more than %.2f %% differ from fp32; seen before: %d images, %d of which differ",
                     name, 100 * bound, watched.seen, watched.differ)  # fmt: skip
        if watched.alarm is not None:
            log.error("ALARM: %s has raised it before, at image %d", artifact.path, watched.alarm)

    def alarmed(self, sha256: str) -> bool:
        """Whether the artifact with this digest has raised the alarm, ever."""
        watched = self._watched.get(sha256) or self._others.get(sha256)
        return watched is not None and watched.alarm is not None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compare, until left; what waits then is left, too."""
        task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._log.close()

    def offer(self, given: str, sha256: str, pixels: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """Take some of a request's images, uint8 (N, side, side, 3), to which an artifact gave these logits, (N, C).

        Args:
            given: the answer's id; of several images each adds its number, counted from 0.
            sha256: the artifact's digest.
        """
        for number in range(len(pixels) if sha256 in self._watched else 0):
            if self._random.random() >= self._shadowing.share:
                continue
            name = given if len(pixels) == 1 else f"{given}-{number}"
            try:
                self._waiting.put_nowait(Item(name, sha256, pixels[number].copy(), logits[number].copy()))
            except asyncio.QueueFull:
                self._skip()

    def _skip(self) -> None:
        self._skipped += 1
        self._metrics.skipped.inc()

    async def _keep(self) -> None:
        """Keep the process, and give it what waits."""
        delay, most = FIRST_DELAY, 4 * len(self._classes) + MOST_SAID
        arguments = (str(self._fp32.path), self._fp32_sha256)
        while True:
            child = await Child.start("vitquant.serving.shadow_worker", *arguments, most=most)
            try:
                status, _ = worker.HEAD.unpack_from(frame := await child.hear())
                if status == worker.FAILED:
                    raise VitquantError(frame[worker.HEAD.size :].decode("utf-8", "replace"))
                delay = FIRST_DELAY
                log.info("%s sees %g of the images", self._fp32.path, self._shadowing.share)
                while True:
                    await self._ask(child, await self._waiting.get())
            except (DiedError, VitquantError) as error:
                log.warning("the process that compares with fp32 ended: %s", printable(error))
            finally:
                child.kill()
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_DELAY)

    async def _ask(self, child: Child, item: Item) -> None:
        try:
            pixels, known = item.pixels.data.cast("B"), self._ranges[item.sha256]
            outputs = np.frombuffer(await child.ask([pixels, known]), np.float32)
        except DiedError:
            self._skip()
            raise
        classes, watched, head = len(self._classes), self._watched[item.sha256], self._head()
        image = compare(item, outputs[:classes], outputs[classes:-1])
        if not np.isnan(outputs[-1]):
            image = image.model_copy(update={"outside": float(outputs[-1])})
        alarms = watched.add(image.differs)
        self._measure(watched, image)
        if alarms:
            log.error("ALARM: %s differs from fp32 more than it should, shown at %d images", watched.recipe,
                      watched.seen)  # fmt: skip
            self.on_alarm()
        line = image.model_copy(update={"alarm": alarms, "skipped": self._skipped})
        await asyncio.to_thread(self._write, head, line, item)

    def _write(self, head: Head, line: Image, item: Item) -> None:
        before = self._log.lost
        self._log.write(head, line)
        self._metrics.lost.inc(self._log.lost - before)
        if line.differs and self._kept < self._shadowing.images:
            path = self._shadowing.log / IMAGES / f"{item.id}.png"
            with contextlib.suppress(OSError), files.atomic(path) as partial:  # the line counts, and was written
                Picture.fromarray(item.pixels).save(partial, "PNG")
                partial.chmod(0o600)
                self._kept += 1

    def _measure(self, watched: Watched, image: Image) -> None:
        metrics, name = self._metrics, watched.recipe
        metrics.compared.labels(name).inc()
        metrics.differ.labels(name).inc(image.differs)
        metrics.moved.labels(name).observe(image.total_variation)
        if image.outside is not None:
            metrics.outside.labels(name).observe(image.outside)
        metrics.differ_high.labels(name).set(sequential.interval(watched.differ, watched.seen)[1])
        metrics.alarm.labels(name).set(float(watched.alarm is not None))

    def _head(self) -> Head:
        return Head(
            sampled=self._shadowing.share,
            classes=self._classes,
            fp32=str(self._fp32.path.absolute()),
            fp32_sha256=self._fp32_sha256,
            watched=[watched.model_copy() for watched in (*self._watched.values(), *self._others.values())],
        )


def compare(item: Item, logits: NDArray[np.float32], embedding: NDArray[np.float32]) -> Image:
    """What an answer and FP32's, logits (C,) and embedding (D,), have in common."""
    ours, theirs = probabilities(np.stack([item.logits, logits])).astype(np.float64)
    served, fp32 = int(item.logits.argmax()), int(logits.argmax())
    lengths = float(np.linalg.norm(item.logits) * np.linalg.norm(logits))
    return Image(
        id=item.id,
        sha256=item.sha256,
        served=served,
        fp32=fp32,
        served_confidence=_share(ours[served]),
        fp32_confidence=_share(theirs[fp32]),
        fp32_of_served=_share(theirs[served]),
        total_variation=_share(np.abs(ours - theirs).sum() / 2),
        cosine=round(float(item.logits @ logits) / lengths, 6) if lengths else 1.0,
        embedding=records.packed(embedding),
    )


def _share(value: float) -> float:
    return round(min(1.0, max(0.0, float(value))), 6)
