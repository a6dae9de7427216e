"""A fresh process that runs one function and answers through a pipe.

Each is a new interpreter. Forking them from one that has imported the libraries would save seconds, but
then pages of the libraries that a recipe touches first would count as the recipe's memory (15 MB, measured).
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from vitquant.errors import UnsupportedError, VitquantError


class Worker:
    """Runs `serve(connection, *arguments)` in a new interpreter; nothing of this one is inherited.

    A VitquantError that `serve` raises is raised again by `receive`.
    """

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_run, args=(serve, remote, *arguments), daemon=True)
        self._process.start()
        remote.close()

    def send(self, value: Any) -> None:
        """Hand a value to `serve`."""
        self._connection.send(value)

    def ask(self, *value: Any) -> Any:
        """Send a tuple and wait for the answer, as `receive` does."""
        self.send(value)
        return self.receive()

    def receive(self) -> Any:
        """The next answer.

        Raises:
            UnsupportedError: `serve` raised it, or the process died.
            VitquantError: `serve` raised it.
        """
        try:
            answer = self._connection.recv()
        except EOFError:
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
        """Hang up, which ends `serve` when it next waits, and wait for the process."""
        self._connection.close()
        self._process.join()


def _run(serve: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    try:
        serve(connection, *arguments)
    except EOFError:
        return
    except VitquantError as error:
        connection.send(error)
