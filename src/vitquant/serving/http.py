"""Reading requests that may be slow, endless or nobody's any more."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import h11
from fastapi import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitquant.serving.metrics import Metrics
from vitquant.serving.refused import RefusedError
from vitquant.serving.settings import Settings

HEADER_SECONDS = 10.0  # from a request's first byte to its headers' end, and to the end of a body that nobody reads
Answer = TypeVar("Answer")


class Protocol(H11Protocol):
    """Uvicorn's, which also hangs up on those who do not come to an end; headers' size is limited by h11."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()

    def _watch(self) -> None:
        """Start the clock when it is the client's turn, and stop it when that has come to an end."""
        served = self.cycle is not None and not self.cycle.response_complete
        between = self.cycle is not None and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if served or between or self.transport.is_closing():
            if self._timer:
                self._timer.cancel()
            self._timer = None
        elif not self._timer:
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)


class Bodies:
    """Reads bodies, of which so many bytes are held altogether."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._held = settings, 0
        metrics.held.set_function(lambda: float(self._held))

    def release(self, size: int) -> None:
        """A body is no longer held."""
        self._held -= size

    async def read(self, request: Request) -> bytes:
        """The body; the caller releases it.

        Raises:
            RefusedError: it is too large, too slow, compressed, or all bodies together are too large.
            starlette.requests.ClientDisconnect: the client has gone.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "the body must not be compressed")
        most = self._settings.body_bytes
        too_large = RefusedError(413, f"the body may have at most {most} bytes")
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    self._held += len(part)
                    parts.append(part)
                    if size > most:
                        raise too_large
                    if self._held > self._settings.held_bytes:
                        raise RefusedError(503, "there is no room for more bodies", 1)
        except TimeoutError:
            self._held -= size
            raise RefusedError(408, f"the body took more than {self._settings.body_seconds:g} s") from None
        except BaseException:
            self._held -= size
            raise
        return b"".join(parts)


class ClientGoneError(Exception):
    """Nobody waits for an answer."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, Answer], deadline: float) -> Answer:
    """What `work` gives; it is cancelled when the client goes, or the deadline passes.

    Args:
        request: whose body has been read.
        deadline: on the event loop's clock.

    Raises:
        ClientGoneError: the client has.
        RefusedError: the deadline has passed.
    """
    loop = asyncio.get_running_loop()
    answer, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait(
            {answer, gone}, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED
        )
        if answer.done():
            return answer.result()
        if gone.done():
            raise ClientGoneError
        raise RefusedError(504, "the deadline has passed")
    finally:
        gone.cancel()
        answer.cancel()
        await asyncio.gather(gone, answer, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
