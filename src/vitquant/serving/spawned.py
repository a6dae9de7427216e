"""The real server, `vitquant serve`, in a process of its own on a free port of the loopback."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import requests

from vitquant.errors import VitquantError, printable
from vitquant.serving.replies import RECIPE_HEADER

Found = TypeVar("Found")
PROGRAM = "from vitquant.cli import main; main(prog_name='vitquant')"
KINDS = ("decoder", "worker")  # of its processes
PATIENCE = 300.0  # seconds until it is ready, or has ended
ENDING = 10.0  # seconds that its processes have to end after it
LOOK = 0.02  # seconds between two looks at whether it is ready
IMAGES = re.compile(r"^vitquant_images_total\{.*\} (\S+)$", re.MULTILINE)


class Spawned:
    """A server that is ready, and what became of it.

    Args:
        process: that has been started.
        started: when, by time.perf_counter.
        log: the file that it writes to.

    Raises:
        VitquantError: it ends, or does not become ready in PATIENCE seconds.
    """

    def __init__(self, process: subprocess.Popen[bytes], started: float, log: Path) -> None:
        self._process, self._log = process, log
        self.url = self._wait(self._address, started)
        self._wait(lambda: self._get("/v2/health/ready").ok, started)
        self.start_s = time.perf_counter() - started
        """Seconds from its start until it was ready."""

    def _wait(self, look: Callable[[], Found | None], started: float) -> Found:
        while not (found := look()):
            if self._process.poll() is not None or time.perf_counter() - started > PATIENCE:
                said = self._log.read_text("utf-8", "replace").splitlines() or ["nothing was said"]
                raise VitquantError(f"the server does not become ready: {printable(said[-1])}")
            time.sleep(LOOK)
        return found

    def _address(self) -> str | None:
        found = re.search(r"(http://127\.0\.0\.1:\d+)\n", self._log.read_text("utf-8", "replace"))
        return found[1] if found else None

    def _get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=PATIENCE)

    def await_recipe(self, name: str) -> None:
        """Wait until a recipe of it, a fallback, has been loaded.

        Raises:
            VitquantError: it is not, in PATIENCE seconds.
        """
        self._wait(lambda: f"{name} is warm" in self._log.read_text("utf-8", "replace"), time.perf_counter())

    def ask(self, image: bytes) -> tuple[str, str | None]:
        """Send an image file: the answer's status, and the recipe that answered."""
        try:
            answer = requests.post(f"{self.url}/predict", data=image, timeout=PATIENCE)
        except requests.Timeout:
            return "timeout", None
        except requests.ConnectionError:
            return "connection", None
        return str(answer.status_code), answer.headers.get(RECIPE_HEADER)

    def counted(self) -> int:
        """Images that it has answered, by its own count."""
        return round(sum(map(float, IMAGES.findall(self._get("/metrics").text))))

    def kill_workers(self, artifact: Path) -> None:
        """SIGKILL to the workers that hold an artifact."""
        for child in psutil.Process(self._process.pid).children():
            with suppress(psutil.Error):  # it has ended
                line = child.cmdline()
                if "vitquant.serving.worker" in line and str(artifact) in line:
                    child.kill()

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that it and its processes have taken: `web`, `decoder` and `worker`."""
        taken, own = dict.fromkeys(("web", *KINDS), 0.0), psutil.Process(self._process.pid)
        for each in (own, *own.children()):
            with suppress(psutil.Error):  # it has ended
                times, line = each.cpu_times(), each.cmdline()
                kind = next((kind for kind in KINDS if f"vitquant.serving.{kind}" in line), "web")
                taken[kind] += times.user + times.system
        return taken

    def resident_bytes(self) -> int:
        """Memory of it and its processes; pages that they share count in each."""
        own = psutil.Process(self._process.pid)
        return sum(each.memory_info().rss for each in (own, *own.children(recursive=True)))


@contextmanager
def spawned(folder: Path, artifact: Path, *fallback: Path, device: str = "cpu", **options: object) -> Iterator[Spawned]:
    """Serve an artifact until left.

    Args:
        folder: for its log.
        fallback: further artifacts.
        device: cpu or cuda.
        options: of `vitquant serve`.

    Raises:
        VitquantError: as Spawned.
    """
    arguments = ["--artifact", artifact, "--port", 0, "--device", device]
    for other in fallback:
        arguments += ["--fallback", other]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", value]
    log = folder / f"{len(list(folder.glob('*.log')))}.log"
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, "serve", *map(str, arguments)], stderr=stream)
    try:
        yield Spawned(process, started, log)
    finally:
        own = psutil.Process(process.pid) if process.poll() is None else None
        children = own.children(recursive=True) if own else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in psutil.wait_procs(children, ENDING)[1]:  # none takes time from what is measured next
            left.kill()
