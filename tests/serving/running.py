"""A server in a process of its own, and requests to it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import requests
import tritonclient.http as triton

VITQUANT = str(Path(sys.executable).with_name("vitquant"))
PATIENCE = 120  # seconds that a test waits for what comes at once unless the machine is busy


class Running:
    """A server that listens on a free port of the loopback."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log
        self.address = self.wait(lambda: re.search(r"http://([^ ]*)\n", self.log))[1]
        self.url = f"http://{self.address}"

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    def wait(self, true):
        """Wait until `true()` is, and give that."""
        end = time.monotonic() + PATIENCE
        while not (found := true()):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.02)
        return found

    def ready(self) -> bool:
        return requests.get(f"{self.url}/v2/health/ready", timeout=PATIENCE).status_code == 200

    def warm(self, *recipes: str) -> None:
        """Wait until these have been loaded, and the server is ready."""
        self.wait(lambda: all(f"{recipe} is warm" in self.log for recipe in recipes) and self.ready())

    def children(self, module: str, argument: str = "") -> list[psutil.Process]:
        """Its processes of that kind."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it has ended
                line = child.cmdline()
                if f"vitquant.serving.{module}" in line and any(argument in each for each in line):
                    found.append(child)
        return found

    def kill(self, argument: str, number: int = signal.SIGKILL) -> None:
        """Kill the workers of an artifact."""
        for child in self.children("worker", argument):
            child.send_signal(number)

    def post(self, body: bytes, path: str = "/predict", **headers: str) -> requests.Response:
        return requests.post(self.url + path, data=body, headers=headers, timeout=PATIENCE)

    def metric(self, name: str) -> float:
        """A line of /metrics."""
        text = requests.get(f"{self.url}/metrics", timeout=PATIENCE).text
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    def client(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(self.address, network_timeout=PATIENCE)


@contextmanager
def serve(
    folder: Path, *artifacts: Path, command: tuple[str, ...] = (VITQUANT,), **options: object
) -> Iterator[Running]:
    """Serve artifacts, the others as fallback."""
    arguments = ["--artifact", artifacts[0], "--port", 0]
    for artifact in artifacts[1:]:
        arguments += ["--fallback", artifact]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", value]
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([*command, "serve", *map(str, arguments)], stderr=stream, cwd=folder, env=os.environ)
    try:
        yield Running(process, log)
    finally:
        own = psutil.Process(process.pid) if process.poll() is None else None
        children = own.children() if own else []
        process.kill()
        process.wait()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()  # a suspended one does not hear that the server has gone
