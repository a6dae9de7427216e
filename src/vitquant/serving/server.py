"""Running the web server until it is told to end; it then answers what it has."""

import gc
import logging
import math
import signal
import socket
import sys
from pathlib import Path

from vitquant.errors import VitquantError, printable
from vitquant.serving import batching
from vitquant.serving.model import open_classifier
from vitquant.serving.settings import Keeping, Settings, Shadowing

CONNECTIONS = 1024  # at a time, beyond which requests are refused
KEEP_ALIVE = 30  # seconds between two requests of a connection
log = logging.getLogger(__name__)


class Printable(logging.Formatter):
    """One line for a message, whatever it holds; a traceback, of a fault of the server's, is lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(record.message)
        return super().formatMessage(record)


def log_to_stderr() -> None:
    """Show what the server, and what runs it, say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Printable("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def serve(
    paths: list[Path],
    settings: Settings,
    max_batch: int | None,
    benchmark: Path,
    device: str,
    host: str,
    port: int,
    shadowing: Shadowing | None = None,
    keeping: Keeping | None = None,
) -> None:
    """Serve the artifacts at `paths`, the best first, until SIGTERM or Ctrl-C. On SIGHUP the first is read again.

    Args:
        max_batch: None for what `benchmark`, the study's file, says of the first artifact.
        shadowing: how a sample of the images is compared with FP32, if it is.
        keeping: how another is kept, if it is.

    Raises:
        VitquantError: an artifact is damaged or has no classes, the address cannot be used, or the extra `serve` is
            not installed.
    """
    try:
        import uvicorn

        from vitquant.serving import app, http
        from vitquant.serving.swap import open_now
    except ImportError as error:
        raise VitquantError(f"{error.name} is not installed: pip install 'vitquant[serve]', or `make setup`") from None
    log_to_stderr()
    artifacts = [open_now(paths[0]), *(open_classifier(path) for path in paths[1:])]
    if max_batch is None:
        max_batch, why = batching.default(artifacts[0], benchmark)
        log.info("max batch %d, max delay %g ms; %s", max_batch, 1000 * settings.max_delay, why)
    elif artifacts[0].spec.traits.batch_scales and max_batch > 1:
        log.info("one image at a time: %s", batching.SPANS)
    chosen = Settings(**{**vars(settings), "max_batch": max_batch})
    for artifact in artifacts:
        log.info("%s %d × %d threads", artifact.path, settings.workers, settings.threads)
        if artifact.spec.no_accuracy:
            log.warning("%s: %s", artifact.path, artifact.spec.no_accuracy)
    application = app.create(artifacts, paths[0], chosen, device, shadowing, keeping)
    listening = _listen(host, port)
    config = uvicorn.Config(
        application,
        http=http.Protocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(chosen.grace),
    )
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn takes it, and raises it once more when all is done
    gc.freeze()  # collections that look through all there is stop the server for a tenth of a second
    with listening:
        log.info("http://%s:%d", host, listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio leaves this to who made the socket
        return listening
    except OSError as error:
        raise VitquantError(f"{host}:{port} cannot be listened on ({error.strerror}): give another --port") from None
