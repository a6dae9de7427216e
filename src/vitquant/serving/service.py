"""What stands behind the endpoints: all processes, and a request's way through them."""

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from vitquant.artifact import Artifact
from vitquant.errors import VitquantError
from vitquant.serving import chain, decoder, replies
from vitquant.serving.chain import Recipe
from vitquant.serving.decoding import Decoded, Decoders
from vitquant.serving.dispatch import Dispatcher
from vitquant.serving.http import Bodies, ClientGoneError, unless_gone
from vitquant.serving.keeping import Keeper
from vitquant.serving.metrics import Metrics
from vitquant.serving.refused import RefusedError
from vitquant.serving.settings import Keeping, Settings, Shadowing
from vitquant.serving.swap import Swapper

if TYPE_CHECKING:
    from vitquant.serving.shadow import Shadow

MOST_HEADER = 1024  # bytes of a content type
CLOSED = 499  # nginx's, in the metrics: the client went away


class Service:
    """What the endpoints share.

    Args:
        artifacts: the chain, opened, the best first.
        path: where the first is looked for again on SIGHUP.
        shadowing: how a sample of the images is compared with FP32, if it is.
        keeping: how another is kept, if it is.

    Raises:
        VitquantError: PyTorch is missing, which that comparison takes, or what is kept, compared or logged is amiss.
    """

    def __init__(
        self,
        artifacts: list[Artifact],
        path: Path,
        settings: Settings,
        device: str,
        shadowing: Shadowing | None,
        keeping: Keeping | None,
    ) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.dispatcher = Dispatcher(settings, self.metrics)

        def recipe(artifact: Artifact, number: int = 0) -> Recipe:
            return Recipe(artifact, number, settings, device, self.metrics, self.dispatcher.pump)

        self.dispatcher.recipes = [recipe(artifact, number) for number, artifact in enumerate(artifacts)]
        for each in self.dispatcher.recipes:
            self.metrics.watch(each.name, each)
        self.shadow: Shadow | None = None
        if shadowing:
            if find_spec("torch") is None:
                raise VitquantError(
                    "--shadow gives images to fp32, which needs PyTorch: it is not installed, so leave it"
                )
            from vitquant.serving import shadow  # its tests take SciPy, which serving alone does without

            self.shadow = shadow.Shadow(artifacts, shadowing, self.metrics)
        self.spec = artifacts[0].spec
        self.decoders = Decoders(self.spec.preprocessing, settings)
        self.bodies = Bodies(settings, self.metrics)
        self.keeper = Keeper(keeping, self.spec.preprocessing.crop, self.metrics) if keeping else None
        self.swapper = Swapper(path, recipe, self.dispatcher, self.shadow, settings.probation, self.metrics)
        self.decoding = 0
        """Requests that are being decoded, or wait for it."""

    @contextlib.asynccontextmanager
    async def running(self, _: object) -> AsyncIterator[None]:
        """Keep all processes, until left."""
        beside = [each.running() for each in (self.swapper, self.shadow, self.keeper) if each]
        async with contextlib.AsyncExitStack() as stack:
            for each in (self.decoders.running(), chain.kept(self.dispatcher.recipes), *beside):
                await stack.enter_async_context(each)
            yield

    def admit(self, images: int = 1) -> None:
        """See that there is room for a request.

        Raises:
            RefusedError: there is none, or the server is starting.
        """
        if not self.dispatcher.recipes[0].settled:
            raise RefusedError(503, "the server is starting", 1)
        waiting = self.dispatcher.waiting + self.decoding
        too_many = waiting + images > max(self.settings.queue, images if not waiting else 0)
        if too_many or self.dispatcher.seconds > self.settings.deadline / 2:
            raise RefusedError(503, "too many images wait", self.dispatcher.retry_after())

    async def answer(self, request: Request, endpoint: int) -> Response:
        """The answer to a request with images."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            self.admit()
            body = await self.bodies.read(request)
            return await unless_gone(
                request, self._predict(request, endpoint, body, start), start + self.settings.deadline
            )
        except RefusedError as refused:
            return replies.refusal(refused)
        except (ClientGoneError, ClientDisconnect):
            return Response(status_code=CLOSED)

    async def _predict(self, request: Request, endpoint: int, body: bytes, start: float) -> Response:
        try:
            decoded = await self._decode(request, endpoint, body)
        finally:
            self.bodies.release(len(body))
        self.admit(len(decoded.pixels))
        recipe, logits = await self.dispatcher.predict(decoded.pixels, start + self.settings.deadline)
        classes, given = self.spec.classes, uuid.uuid4().hex
        if self.shadow:
            self.shadow.offer(given, recipe.sha256, decoded.pixels, logits)
        if self.keeper:
            self.keeper.offer(decoded.pixels)
        if endpoint == decoder.PREDICT:
            return replies.prediction(given, recipe.name, classes, logits, asyncio.get_running_loop().time() - start)
        return replies.inference(self.spec.recipe, decoded.id, given, recipe.name, classes, logits, decoded.outputs)

    async def _decode(self, request: Request, endpoint: int, body: bytes) -> Decoded:
        self.admit()
        length = request.headers.get(replies.LENGTH_HEADER)
        if length is not None and not re.fullmatch("[0-9]{1,12}", length):
            raise RefusedError(400, f"{replies.LENGTH_HEADER} must be a whole number")
        kind = request.headers.get("content-type", "").encode("latin-1")
        if len(kind) > MOST_HEADER:
            raise RefusedError(415, "the content type is too long")
        self.decoding += 1
        try:
            return await self.decoders.decode(endpoint, body, int(length) if length else None, kind)
        finally:
            self.decoding -= 1
