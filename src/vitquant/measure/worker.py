"""A fresh process that runs one function and answers through a pipe.

Each is a new interpreter. Forking them from one that has imported the libraries would save seconds, but
then pages of the libraries that a recipe touches first would count as the recipe's memory (15 MB, measured).
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from vitquant.errors import UnsupportedError, VitquantError

GRACE = 3  # seconds to end in, for a worker that has been hung up on


class Worker:
    """Runs `serve(connection, *arguments)` in a new interpreter; nothing of this one is inherited.

    Ctrl-C does not reach it: this process hears of it, and hangs up.

    A VitquantError that `serve` raises is raised again by `receive`.
    """

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_run, args=(serve, remote, *arguments), daemon=True)
        resource_tracker.ensure_running()  # starting it, as `start` would, lets SIGINT through again
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the new process inherits that
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        remote.close()

    def send(self, value: Any) -> None:
        """Hand a value to `serve`; where its process has died, `receive` says so."""
        with contextlib.suppress(OSError):
            self._connection.send(value)

    def ask(self, *value: Any) -> Any:
        """Send a tuple and wait for the answer, as `receive` does."""
        self.send(value)
        return self.receive()

    def ask_if_alive(self, *value: Any) -> Any:
        """As `ask`; None where its process has died, or cannot do it."""
        try:
            return self.ask(*value)
        except UnsupportedError:
            return None

    def receive(self) -> Any:
        """The next answer.

        Raises:
            UnsupportedError: `serve` raised it, or the process died.
            VitquantError: `serve` raised it.
        """
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise UnsupportedError(f"its process died with exit code {self._process.exitcode}") from None
        if isinstance(answer, VitquantError):
            raise answer
        return answer

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def close(self) -> None:
        """Hang up, which ends `serve` when it next waits, and wait for the process; end it if that takes long."""
        self._connection.close()
        for insist in (self._process.terminate, self._process.kill):
            self._process.join(GRACE)
            insist()
        self._process.join()


def _run(serve: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is half-written is then removed
    try:
        serve(connection, *arguments)
    except (EOFError, BrokenPipeError):
        pass
    except VitquantError as error:
        with contextlib.suppress(BrokenPipeError):
            connection.send(error)
    sys.stdout.flush()
    os._exit(0)  # for the interpreter to take all down takes half a second of each process, one after another
