"""A web server on this machine that cuts, hangs and refuses when told to."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vitquant import downloads


class Server(ThreadingHTTPServer):
    """Sends `files`, by their path and query, the way `script` says: one entry per request, the last for all after.

    "good"; an int, the bytes after which the connection is cut; ("hang", n), silence after n bytes, or before
    the headers where n is None; ("chunked", n), a chunked answer that is cut; "no ranges", "no length", "moved
    range"; "longer range", one that goes on after its end; or a status, as a str.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.script: list[object] = ["good"]
        self.starts: list[int] = []
        self.sent: list[int] = []
        self.ended = threading.Event()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        """The first file's."""
        return f"{self.root}{next(iter(self.files))}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        script = self.server.script
        step = script.pop(0) if len(script) > 1 else script[0]
        self.close_connection = True
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.server.starts.append(start)
        content = self.server.files.get(self.path)
        if content is None:
            step = "404"
        if isinstance(step, str) and step.isdecimal():
            self.reply(int(step), {"Content-Length": "0"})
            return
        if step == ("hang", None):
            self.server.ended.wait(20)
            return
        if step in {"no ranges", "no length"}:
            start = 0
        if start >= len(content):
            self.reply(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        body = content[start:]
        headers = {"Content-Length": str(len(body))}
        if isinstance(step, tuple) and step[0] == "chunked":
            headers = {"Transfer-Encoding": "chunked"}
        elif step in {"no length", "longer range"}:
            headers = {"Connection": "close"}
        if start:
            first = start - 1 if step == "moved range" else start
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.reply(206 if start else 200, headers)
        if step == "longer range":
            body += body
        limit = step if isinstance(step, int) else step[1] if isinstance(step, tuple) else len(body)
        self.server.sent.append(len(body[:limit]))  # first: the client may be done before the write returns
        if "Transfer-Encoding" in headers:
            self.wfile.write(b"%x\r\n" % len(body))
        self.wfile.write(body[:limit])
        if isinstance(step, tuple) and step[0] == "hang":
            self.server.ended.wait(20)
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)

    def reply(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Server]:
    with Server(files) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.ended.set()
        running.shutdown()
        thread.join()


def isolate(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let downloads keep their parts in `cache`, use no proxy, and wait for little."""
    monkeypatch.setenv("VITQUANT_CACHE", str(cache))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(downloads, "READ_TIMEOUT", 0.3)
    monkeypatch.setattr(downloads, "BACKOFF", 0.01)
