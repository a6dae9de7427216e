"""The web server's endpoints. It reads bodies and hands them on: other processes parse, decode and compute."""

import asyncio
import base64
import hashlib
import logging
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from vitquant.artifact import Artifact
from vitquant.serving import chain, decoder, replies
from vitquant.serving.refused import RefusedError
from vitquant.serving.service import Service
from vitquant.serving.settings import Keeping, Settings, Shadowing

PAGE = Path(__file__).with_name("page.html")
IMAGE = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
FORM = {
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
    }
}
log = logging.getLogger(__name__)


class Observed:
    """ASGI middleware: counts and times answers, by the endpoint's name, and turns what is not caught into a line."""

    def __init__(self, app: Any, server: Service) -> None:
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


def create(
    artifacts: list[Artifact],
    path: Path,
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
    server = Service(artifacts, path, settings, device, shadowing, keeping)
    version, spec = metadata.version("vitquant"), server.spec
    app = FastAPI(title="vitquant", version=version, lifespan=server.running, redoc_url=None)
    page = PAGE.read_text("utf-8")
    policy = _policy(page)

    def check_model(request: Request, name: str) -> None:
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
        options: Any = {"include_in_schema": "versions" not in prefix}

        @app.get(prefix, **options)
        async def model_metadata(request: Request, name: str) -> Response:
            """The model's inputs, outputs and classes."""
            check_model(request, name)
            return replies.line(replies.model(spec.recipe, spec))

        @app.get(f"{prefix}/ready", **options)
        async def model_ready(request: Request, name: str) -> Response:
            """As the server's."""
            check_model(request, name)
            return await ready()

        @app.post(f"{prefix}/infer", **options)
        async def infer(request: Request, name: str) -> Response:
            """Logits, probabilities and class names, by the Open Inference Protocol, version 2."""
            check_model(request, name)
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
