"""A request's images on their way through the workers, and the inputs that are not let in again."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitquant.serving.frames import Bytes
from vitquant.serving.refused import RefusedError

if TYPE_CHECKING:
    from vitquant.serving.chain import Recipe


@dataclass(eq=False)
class Request:
    """Images of one request: all are answered by the same recipe."""

    pixels: NDArray[np.uint8]
    deadline: float
    """On the event loop's clock."""
    answer: "asyncio.Future[tuple[Recipe, NDArray[np.float32]]]"
    """Which recipe answered, and the logits, float32 (N, C)."""
    first: int = 0
    """The first recipe of the chain that may answer."""
    recipe: int | None = None
    """The one that has begun to."""
    failures: int = 0
    """Workers that have died over it, and recipes that gave it no finite numbers."""
    beginning: int = 0
    """How often it began anew."""
    rows: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Logits, by image."""

    def items(self) -> "list[Item]":
        """All of its images."""
        return [Item(self, index, self.beginning) for index in range(len(self.pixels))]

    def take(self, index: int, logits: NDArray[np.float32], recipe: "Recipe") -> None:
        """An image's logits, (C,), and the recipe that gave them."""
        self.rows[index] = logits
        if len(self.rows) == len(self.pixels) and not self.answer.done():
            self.answer.set_result((recipe, np.stack([self.rows[each] for each in range(len(self.pixels))])))

    def restart(self, first: int) -> "list[Item]":
        """Forget what was answered, and begin again with the recipe `first` of the chain or a later one."""
        self.first, self.recipe, self.beginning = first, None, self.beginning + 1
        self.rows.clear()
        return self.items()

    def refuse(self, refused: RefusedError) -> None:
        """Answer with that, if there is no answer yet."""
        if not self.answer.done():
            self.answer.set_exception(refused)


@dataclass(eq=False)
class Item:
    """An image of a request."""

    request: Request
    index: int
    beginning: int
    """Of the request when this was put into the queue."""

    @property
    def current(self) -> bool:
        """Whether it is wanted: the request has no answer yet, its client is there, and it has not begun anew."""
        return not self.request.answer.done() and self.request.beginning == self.beginning

    @property
    def pixels(self) -> memoryview:
        """Its bytes."""
        return memoryview(self.request.pixels[self.index]).cast("B")


class Deadly:
    """Inputs that ended two processes: they are refused, not tried again; the last few are remembered for a while."""

    MOST, SECONDS = 1024, 3600.0

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, float] = OrderedDict()

    def check(self, content: Bytes) -> None:
        """See that an input is none of them.

        Raises:
            RefusedError: it is one.
        """
        if self._known:
            since = self._known.get(self._digest(content))
            if since is not None and time.monotonic() - since < self.SECONDS:
                raise self.refusal()

    def add(self, content: Bytes) -> None:
        """Remember one."""
        self._known[self._digest(content)] = time.monotonic()
        if len(self._known) > self.MOST:
            self._known.popitem(last=False)

    @staticmethod
    def refusal() -> RefusedError:
        """What is said of them."""
        return RefusedError(422, "this input ended two processes: it is not tried again")

    @staticmethod
    def _digest(content: Bytes) -> bytes:
        return hashlib.sha256(content).digest()
