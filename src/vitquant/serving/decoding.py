"""The decoders' processes, as the server uses them: one request each at a time, for so long at most."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from vitquant.images import Preprocessing
from vitquant.serving.decoder import REPLY, REQUEST
from vitquant.serving.frames import Child, DiedError
from vitquant.serving.protocol import MOST_ID, OUTPUTS
from vitquant.serving.refused import RefusedError
from vitquant.serving.requests import Deadly
from vitquant.serving.settings import Settings

TEXT = 4 * MOST_ID  # bytes of a reply's text at most
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """What a request asks for, with its images' pixels."""

    pixels: NDArray[np.uint8]
    """(N, side, side, 3)."""
    outputs: tuple[tuple[str, bool], ...]
    """Names, and whether each is binary."""
    id: str


class Decoders:
    """Processes that decode; one that has ended is started again."""

    def __init__(self, preprocessing: Preprocessing, settings: Settings) -> None:
        self._side, self._settings = preprocessing.crop, settings
        self._arguments = (
            preprocessing.model_dump_json(),
            str(settings.megapixels),
            str(settings.images),
            str(settings.body_bytes),
        )
        self._most = settings.images * self._side * self._side * 3 + REPLY.size + TEXT
        self._idle: asyncio.Queue[Child] = asyncio.Queue()
        self._all: set[Child] = set()
        self._deadly = Deadly()
        self._tasks: set[asyncio.Task[bytes]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep them, until left."""
        try:
            await asyncio.gather(*(self._start() for _ in range(self._settings.decoders)))
            yield
        finally:
            for child in self._all:
                child.kill()

    async def _start(self) -> None:
        child = await Child.start("vitquant.serving.decoder", *self._arguments, most=self._most, quiet=True)
        self._all.add(child)
        self._idle.put_nowait(child)

    async def decode(self, endpoint: int, body: bytes, header_length: int | None, content_type: bytes) -> Decoded:
        """Parse a request and decode its images.

        Args:
            endpoint: decoder.INFER or PREDICT.
            header_length: of the body's JSON, where binary tensors come after it.

        Raises:
            RefusedError: it is not right, too large, takes too long, or ends the process.
        """
        self._deadly.check(body)
        head = REQUEST.pack(endpoint, -1 if header_length is None else header_length, len(content_type))
        for last in (False, True):
            task = asyncio.create_task(self._ask((head, content_type, body)))
            self._tasks.add(task)
            task.add_done_callback(self._forget)
            try:
                return self._read(await asyncio.shield(task), body)  # when nobody waits, it is decoded all the same
            except DiedError as died:
                log.warning("a decoder ended with code %s", died.code)
                if last and died.killed:
                    raise RefusedError(503, "the decoders ended", 1) from None
                if last:
                    self._deadly.add(body)
                    raise Deadly.refusal() from None
        raise AssertionError

    def _forget(self, task: "asyncio.Task[bytes]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # so that it counts as seen

    async def _ask(self, parts: tuple[bytes, ...]) -> bytes:
        child = await self._idle.get()
        while child.gone:  # nobody's fault
            self._all.discard(child)
            await self._start()
            child = await self._idle.get()
        try:
            async with asyncio.timeout(self._settings.decode_seconds):
                reply = await child.ask(parts)
        except BaseException as error:
            child.kill()
            self._all.discard(child)
            await self._start()
            if isinstance(error, TimeoutError):
                why = f"reading it takes more than {self._settings.decode_seconds:g} s"
                raise RefusedError(422, why) from None
            raise
        self._idle.put_nowait(child)
        return reply

    def _read(self, reply: bytes, body: bytes) -> Decoded:
        status, images, wanted, binary, length, as_sent = REPLY.unpack_from(reply)
        start = REPLY.size + length
        text = reply[REPLY.size : start].decode("utf-8", "replace")
        if status != 200:  # noqa: PLR2004
            raise RefusedError(status, text)
        shape = (images, self._side, self._side, 3)
        there = (
            np.frombuffer(body, np.uint8)[-prod(shape) :] if as_sent else np.frombuffer(reply, np.uint8, offset=start)
        )
        outputs = ((name, bool(binary >> number & 1)) for number, name in enumerate(OUTPUTS) if wanted >> number & 1)
        return Decoded(there.reshape(shape), tuple(outputs), text)
