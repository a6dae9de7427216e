"""Requests to a server by the Open Inference Protocol, in a closed or an open loop, and what became of each.

In a closed loop so many clients each wait for an answer before they ask again: it finds the capacity. In an open loop
requests are sent at random times that do not depend on the answers, a Poisson process, and each one's latency counts
from the time at which it was to be sent: a server that stalls cannot hide what it made wait (no coordinated omission).
"""

import asyncio
import gc
import io
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import numpy as np
from PIL import Image

from vitquant.errors import VitquantError
from vitquant.serving.protocol import ELEMENT, INPUT
from vitquant.serving.replies import LENGTH_HEADER, RECIPE_HEADER

Kind = Literal["files", "pixels"]
OK = "200"
FEW = 1000  # images that are kept ready


@dataclass(frozen=True)
class Sent:
    """One request and what became of it."""

    at: float
    """Seconds from the start to when it was to be sent."""
    seconds: float
    """From then to the end of its answer."""
    outcome: str
    """The answer's status; or `timeout` or `connection`, where there was none."""
    recipe: str | None
    """Which answered."""


@dataclass(frozen=True)
class Body:
    """A request that is ready to be sent."""

    headers: dict[str, str]
    content: bytes


def body(images: Sequence[Any], kind: Kind) -> Body:
    """A request for logits of images: files' contents, or pixels, uint8 (side, side, 3) each."""
    if kind == "files":
        tensor: dict[str, Any] = {"datatype": "BYTES", "shape": [len(images)]}
        content = b"".join(ELEMENT.pack(len(image)) + image for image in images)
    else:
        tensor = {"datatype": "UINT8", "shape": [len(images), *images[0].shape]}
        content = b"".join(image.tobytes() for image in images)
    tensor |= {"name": INPUT, "parameters": {"binary_data_size": len(content)}}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    return Body({LENGTH_HEADER: str(len(head)), "Content-Type": "application/octet-stream"}, head + content)


class Target:
    """A server under test.

    Args:
        images: files.
        each: images in a request.
        timeout: seconds that an answer is waited for.
    """

    def __init__(self, url: str, images: Sequence[Path], kind: Kind, each: int, timeout: float) -> None:
        self._url, self._images, self._kind, self._each = url.rstrip("/"), images, kind, each
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def closed(self, clients: int, seconds: float) -> list[Sent]:
        """Clients that ask again as soon as they have an answer."""
        async for ask in self._asking():
            start, sent = time.perf_counter(), []

            async def client(start: float = start, ask: Callable[[float], Awaitable[Sent]] = ask) -> list[Sent]:
                own = []
                while (at := time.perf_counter() - start) < seconds:
                    own.append(await ask(start + at))
                return own

            sent = await asyncio.gather(*(client() for _ in range(clients)))
        return [_since(each, start) for each in itertools.chain(*sent)]

    async def open(self, rate: float, seconds: float, seed: int) -> list[Sent]:
        """Requests at random times, `rate` a second on average."""
        times = arrivals(rate, seconds, seed)
        async for ask in self._asking():
            start, tasks = time.perf_counter(), []
            for at in times:
                await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
                tasks.append(asyncio.create_task(_awaited(ask(start + at))))
            sent = await asyncio.gather(*tasks)
        return [_since(each, start) for each in sent]

    async def _asking(self) -> AsyncIterator[Callable[[float], Awaitable[Sent]]]:
        """A function that sends a request that was to be sent at a time, once; `at` is then on that clock."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            url, bodies = await self._prepare(session)

            async def ask(due: float) -> Sent:
                ready, recipe = next(bodies), None
                try:
                    async with session.post(url, data=ready.content, headers=ready.headers) as answer:
                        await answer.read()
                        outcome, recipe = str(answer.status), answer.headers.get(RECIPE_HEADER)
                except TimeoutError:
                    outcome = "timeout"
                except aiohttp.ClientError:
                    outcome = "connection"
                return Sent(due, time.perf_counter() - due, outcome, recipe)

            gc.freeze()  # collections that look through PyTorch stop the client for a third of a second
            try:
                yield ask
            finally:
                gc.unfreeze()

    async def _prepare(self, session: aiohttp.ClientSession) -> tuple[str, "itertools.cycle[Body]"]:
        try:
            async with session.get(f"{self._url}/v2") as answer:
                name = (await answer.json())["models"][0]
            async with session.get(f"{self._url}/v2/models/{name}") as answer:
                side = int((await answer.json())["inputs"][0]["shape"][1])
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError):
            raise VitquantError(f"{self._url} is no server of vitquant's that answers: check the URL") from None
        ready = [_image(file, self._kind, side) for file in self._images[:FEW]]
        several = [(ready * self._each)[start : start + self._each] for start in range(0, len(ready), self._each)]
        bodies = [body(images, self._kind) for images in several]
        return f"{self._url}/v2/models/{name}/infer", itertools.cycle(bodies)


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """When requests are to be sent, in seconds from the start: a Poisson process of `rate` a second."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * seconds)
    return sorted(map(float, rng.uniform(0, seconds, count)))


async def _awaited(answer: Awaitable[Sent]) -> Sent:
    return await answer


def _since(sent: Sent, start: float) -> Sent:
    return Sent(sent.at - start, sent.seconds, sent.outcome, sent.recipe)


def _image(file: Path, kind: Kind, side: int) -> Any:
    content = file.read_bytes()
    if kind == "files":
        return content
    try:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((side, side)))
    except OSError:
        raise VitquantError(f"{file} is no image: leave it out") from None
