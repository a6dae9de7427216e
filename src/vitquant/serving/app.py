"""The web server's endpoints. It reads bodies and hands them on: other processes parse, decode and compute."""

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import uuid
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from vitquant.artifact import Artifact
from vitquant.serving import chain, decoder, replies
from vitquant.serving.chain import Recipe
from vitquant.serving.decoding import Decoded, Decoders
from vitquant.serving.dispatch import Dispatcher
from vitquant.serving.http import Bodies, ClientGoneError, unless_gone
from vitquant.serving.keeping import Keeper
from vitquant.serving.metrics import Metrics
from vitquant.serving.refused import RefusedError
from vitquant.serving.settings import Keeping, Settings, Shadowing

if TYPE_CHECKING:
    from vitquant.serving.shadow import Shadow

PAGE = Path(__file__).with_name("page.html")
MOST_HEADER = 1024  # bytes of a content type
CLOSED = 499  # nginx's, in the metrics: the client went away
IMAGE = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
FORM = {
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
    }
}
log = logging.getLogger(__name__)


class Server:
    """What the endpoints share.

    Args:
        artifacts: the chain, opened, the best first.
        shadowing: how a sample of the images is compared with FP32, if it is.
        keeping: how another is kept, if it is.
    """

    def __init__(
        self,
        artifacts: list[Artifact],
        settings: Settings,
        device: str,
        shadowing: Shadowing | None,
        keeping: Keeping | None,
    ) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.shadow = _shadow(artifacts, shadowing, self.metrics) if shadowing else None
        self.dispatcher = Dispatcher(settings, self.metrics)
        self.dispatcher.recipes = [
            Recipe(artifact, number, settings, device, self.metrics, self.dispatcher.pump)
            for number, artifact in enumerate(artifacts)
        ]
        self.spec = artifacts[0].spec
        self.decoders = Decoders(self.spec.preprocessing, settings)
        self.bodies = Bodies(settings, self.metrics)
        self.keeper = Keeper(keeping, self.spec.preprocessing.crop, self.metrics) if keeping else None
        self.decoding = 0
        """Requests that are being decoded, or wait for it."""

    @contextlib.asynccontextmanager
    async def running(self, _: object) -> AsyncIterator[None]:
        """Keep all processes, until left."""
        beside = [each.running() for each in (self.shadow, self.keeper) if each]
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
            self.shadow.offer(given, recipe.name, decoded.pixels, logits)
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


class Observed:
    """ASGI middleware: counts and times answers, by the endpoint's name, and turns what is not caught into a line."""

    def __init__(self, app: Any, server: Server) -> None:
        self._app, self._metrics = app, server.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop, status = asyncio.get_running_loop(), 0
        start = loop.time()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # a fault of the server's
            log.error("%s", type(error).__name__, exc_info=error)
            if not status:
                await replies.refusal(RefusedError(500, "the server failed"))(scope, receive, noting)
        finally:
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(loop.time() - start)


def _shadow(artifacts: list[Artifact], shadowing: Shadowing, metrics: Metrics) -> "Shadow":
    from vitquant.serving.shadow import Shadow  # and SciPy, which a server that watches nothing does without

    return Shadow(artifacts, shadowing, metrics)


def create(
    artifacts: list[Artifact],
    settings: Settings,
    device: str,
    shadowing: Shadowing | None = None,
    keeping: Keeping | None = None,
) -> Any:
    """The ASGI application.

    Raises:
        VitquantError: the artifacts cannot stand in for each other, or the log or the sample is another's.
    """
    chain.check_alike(artifacts)
    server = Server(artifacts, settings, device, shadowing, keeping)
    version, spec = metadata.version("vitquant"), server.spec
    app = FastAPI(title="vitquant", version=version, lifespan=server.running, redoc_url=None)
    page = PAGE.read_text("utf-8")
    policy = _policy(page)

    async def known(request: Request, name: str) -> None:
        if name != spec.recipe or request.path_params.get("version", replies.VERSION) != replies.VERSION:
            raise HTTPException(404, "there is no such model")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return replies.line({"error": error.detail}, error.status_code, dict(error.headers or {}))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.post("/predict", openapi_extra={"requestBody": {"content": FORM | IMAGE, "required": True}})
    async def predict(request: Request) -> Response:
        """Classify one JPEG, PNG or WebP file: `curl -F file=@image.jpg`."""
        return await server.answer(request, decoder.PREDICT)

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return server.metrics.response()

    @app.get("/v2")
    async def server_metadata() -> Response:
        """The server's name, version and extensions."""
        return replies.line(replies.server(version, spec.recipe))

    @app.get("/v2/health/live")
    async def live() -> Response:
        """Whether the server runs."""
        return replies.line({"live": True})

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        """Whether a recipe is warm and serves."""
        if server.dispatcher.ready:
            return replies.line({"ready": True})
        return replies.line({"ready": False, "error": server.dispatcher.why()}, 503)

    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        options: Any = {"dependencies": [Depends(known)], "include_in_schema": "versions" not in prefix}

        @app.get(prefix, **options)
        async def model_metadata() -> Response:
            """The model's inputs, outputs and classes."""
            return replies.line(replies.model(spec.recipe, spec))

        @app.get(f"{prefix}/ready", **options)
        async def model_ready() -> Response:
            """As the server's."""
            return await ready()

        @app.post(f"{prefix}/infer", **options)
        async def infer(request: Request) -> Response:
            """Logits, probabilities and class names, by the Open Inference Protocol, version 2."""
            return await server.answer(request, decoder.INFER)

    return Observed(app, server)


def _policy(page: str) -> str:
    """The page's Content-Security-Policy: its own script and style, and what it asks of this server."""
    hashes = [
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for name in ("script", "style")
        for part in re.findall(f"<{name}>(.*?)</{name}>", page, re.DOTALL)
    ]
    script, style = (f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
