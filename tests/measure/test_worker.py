"""A process that dies, and one that does not wait; it imports little, since the process imports this module."""

import os
import signal
import time
from multiprocessing.connection import Connection

import psutil
import pytest

from vitquant.errors import UnsupportedError
from vitquant.measure.worker import Worker


def _die(connection: Connection) -> None:
    os.kill(os.getpid(), signal.SIGILL)


def test_a_process_that_dies_is_unsupported_not_a_crash() -> None:
    worker = Worker(_die)
    with pytest.raises(UnsupportedError, match=f"died with exit code -{int(signal.SIGILL)}"):
        worker.receive()
    worker.close()


def _never_waits(connection: Connection) -> None:
    connection.send("ready")
    while True:
        time.sleep(1)


def test_a_worker_that_does_not_wait_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitquant.measure.worker.GRACE", 0.1)
    worker = Worker(_never_waits)
    assert worker.receive() == "ready"
    worker.close()
    assert not psutil.pid_exists(worker.pid)


def whole_alone(connection: Connection) -> None:
    """A session in which no batch can be split."""
    while True:
        question, _, _, split = connection.recv()
        connection.send(0.5 if question == "time" else "out of memory" if split else 1)
