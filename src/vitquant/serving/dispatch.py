"""The queue: which images are given to which worker, and what becomes of them when it fails.

All of it runs in the event loop. `_pump` is called whenever something has changed, and hands out what can be.
"""

import asyncio
import logging
import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from vitquant.serving import worker
from vitquant.serving.chain import Recipe, Slot
from vitquant.serving.frames import Child, DiedError
from vitquant.serving.metrics import Metrics
from vitquant.serving.refused import RefusedError
from vitquant.serving.requests import Deadly, Item, Request
from vitquant.serving.settings import Settings

RECENT = 0.1  # the weight of the last batch in what an image takes
log = logging.getLogger(__name__)


class Dispatcher:
    """Gives images to the first recipe of the chain that serves, joined to batches."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.recipes: list[Recipe] = []
        self._queue: deque[Item] = deque()
        self._arrived: dict[Item, float] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._deadly = Deadly()
        self._timer: asyncio.TimerHandle | None = None
        metrics.waiting.set_function(lambda: float(len(self._queue)))

    @property
    def ready(self) -> bool:
        """Whether the first recipe has been tried, and one serves."""
        return self.recipes[0].settled and any(recipe.serves for recipe in self.recipes)

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._queue)

    @property
    def seconds(self) -> float:
        """That those in the queue will take, as the last ones did."""
        recipe = next((recipe for recipe in self.recipes if recipe.serves), self.recipes[0])
        return len(self._queue) * recipe.seconds / len(recipe.slots)

    def retry_after(self) -> int:
        """Seconds after which the queue will be shorter."""
        return max(1, min(60, math.ceil(self.seconds)))

    async def predict(self, pixels: NDArray[np.uint8], deadline: float) -> tuple[Recipe, NDArray[np.float32]]:
        """Logits of images, float32 (N, C), and the recipe that gave them.

        Cancelled, the images are dropped unless a worker has them.

        Args:
            deadline: on the event loop's clock; after it nothing is begun.

        Raises:
            RefusedError: nothing can serve, or the workers died.
        """
        self._deadly.check(pixels.data)
        loop = asyncio.get_running_loop()
        request = Request(pixels, deadline, loop.create_future())
        self._queue.extend(self._arrive(request.items()))
        self.pump()
        try:
            recipe, logits = await request.answer
        except asyncio.CancelledError:
            self.pump()  # which makes room of it
            raise
        self._metrics.images.labels(recipe.name).inc(len(logits))
        return recipe, logits

    def put_first(self, recipe: Recipe) -> Recipe:
        """From now on another is the first of the chain: the one that was, which may have batches still.

        A request of which some images are with that one, and others wait, begins again: one recipe answers it.
        """
        before, self.recipes[0] = self.recipes[0], recipe
        self._metrics.watch(recipe.name, recipe)
        for request in {item.request for item in self._queue if item.current and item.request.recipe == 0}:
            self._queue.extendleft(reversed(self._arrive(request.restart(request.first))))
        self.pump()
        return before

    def _arrive(self, items: list[Item]) -> list[Item]:
        self._arrived.update(dict.fromkeys(items, asyncio.get_running_loop().time()))
        return items

    def _try_again(self, request: Request, failed: Recipe) -> None:
        """From the beginning, before others, on the next recipe, or on the same if it is the last."""
        request.failures += 1
        following = min(failed.number + 1, len(self.recipes) - 1)
        self._queue.extendleft(reversed(self._arrive(request.restart(following))))

    def _choose(self, request: Request) -> int | None:
        """The recipe for a request, by its number: if none serves, one that is being loaded; None if there is none."""
        if request.recipe is not None:
            return request.recipe
        chain = (*self.recipes[request.first :], *self.recipes[: request.first])
        serving = next((recipe.number for recipe in chain if recipe.serves), None)
        if serving is not None:
            return serving
        return next((recipe.number for recipe in chain if not recipe.alive and recipe.breaker.state == "closed"), None)

    def pump(self) -> None:
        """Hand out what can be handed out."""
        now = asyncio.get_running_loop().time()
        chosen: dict[int, list[Item]] = {}
        for request in {item.request for item in self._queue if item.current}:
            if request.recipe is not None and not self.recipes[request.recipe].goes_on:
                self._queue.extendleft(reversed(self._arrive(request.restart(request.first))))
        queue, self._queue = self._queue, deque()
        for item in queue:
            number = self._choose(item.request) if item.current and item.request.deadline > now else None
            if number is not None:
                self._queue.append(item)
                chosen.setdefault(number, []).append(item)
                continue
            self._arrived.pop(item, None)
            if item.current and item.request.deadline > now:
                item.request.refuse(RefusedError(503, self.why(), self._seconds_to_probe()))
        for number, items in chosen.items():
            self._hand_out(self.recipes[number], items, now)

    def _hand_out(self, recipe: Recipe, items: list[Item], now: float) -> None:
        while items and recipe.breaker.allows and (slot := recipe.free()):
            probing = recipe.breaker.state != "closed"
            alone = probing or items[0].request.failures > 0
            joined = items[:1] if alone else [item for item in items if not item.request.failures]
            size = 1 if alone else max(size for size in recipe.sizes if size <= len(joined) or size == 1)
            due = self._arrived[items[0]] + self._settings.max_delay
            if not alone and len(joined) < recipe.sizes[-1] and now < due:
                self._pump_at(due)
                return
            batch = joined[:size]
            for item in batch:
                items.remove(item)
                self._queue.remove(item)
                self._arrived.pop(item)
                item.request.recipe = recipe.number
            slot.busy = True
            recipe.breaker.started()
            assert slot.child
            task = asyncio.create_task(self._run(slot, slot.child, batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _pump_at(self, when: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self.pump)

    async def _run(self, slot: Slot, child: Child, batch: list[Item]) -> None:
        """Give a batch to a worker, and its images what comes of it."""
        recipe, loop = slot.recipe, asyncio.get_running_loop()
        start, name, frame = loop.time(), recipe.name, None
        self._metrics.batch.labels(name).observe(len(batch))
        try:
            async with asyncio.timeout(self._settings.deadline):
                frame = await child.ask(item.pixels for item in batch)
        except TimeoutError:
            child.kill()
            slot.child = None
            recipe.failed("deadline", f"a batch took more than {self._settings.deadline:g} s")
            for item in batch:
                item.request.refuse(RefusedError(504, "the deadline has passed"))
        except DiedError as died:
            slot.child = None
            recipe.failed("died", str(died))
            self._retry(recipe, batch, died)
        else:
            taken = loop.time() - start
            self._metrics.compute.labels(name).observe(taken)
            recipe.seconds += RECENT * (taken / len(batch) - recipe.seconds)
            classes = len(recipe.artifact.spec.classes)
            logits = np.frombuffer(frame, np.float32, offset=worker.HEAD.size).reshape(len(batch), classes)
            finite = [bool(np.isfinite(row).all()) for row in logits]
            self._judge(recipe, batch, finite, taken)
        finally:
            slot.busy = False
            self.pump()  # before any answer is written: the worker does not wait for that
        if frame is not None:
            self._answer(recipe, batch, logits, finite)

    def _judge(self, recipe: Recipe, batch: list[Item], finite: list[bool], taken: float) -> None:
        late = any(item.request.deadline <= asyncio.get_running_loop().time() for item in batch)
        if not all(finite):
            recipe.failed("not finite", f"{finite.count(False)} of {len(batch)} images")
        elif late and taken > self._settings.deadline / 2:
            recipe.failed("deadline", f"a batch took {taken:.1f} s")
        else:
            recipe.breaker.succeeded()

    def _answer(self, recipe: Recipe, batch: list[Item], logits: NDArray[np.float32], finite: list[bool]) -> None:
        for item, row, right in zip(batch, logits, finite, strict=True):
            if not item.current:
                continue
            if right:
                item.request.take(item.index, row, recipe)
            elif not item.request.failures and len(self.recipes) > 1:
                self._try_again(item.request, recipe)
                self.pump()
            else:
                item.request.refuse(RefusedError(500, f"the model gives no finite numbers for image {item.index}"))

    def _retry(self, recipe: Recipe, batch: list[Item], died: DiedError) -> None:
        """A worker has died over a batch: each of its requests is tried once more, alone, on the next recipe."""
        for request in {item.request: None for item in batch if item.current}:
            if not request.failures:
                self._try_again(request, recipe)
            elif died.killed:
                request.refuse(RefusedError(503, "the workers ended", self.retry_after()))
            else:
                self._deadly.add(request.pixels.data)
                request.refuse(Deadly.refusal())

    def why(self) -> str:
        """Why nothing serves, in words."""
        return "nothing can serve: " + "; ".join(f"{recipe.name}: {recipe.state()}" for recipe in self.recipes)

    def _seconds_to_probe(self) -> int:
        return max(1, math.ceil(min(recipe.breaker.opens_in for recipe in self.recipes)))
