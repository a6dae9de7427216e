"""The log: a folder of files that are only appended to, each named by the number of its first line.

A file that has grown to MOST is followed by a new one, and the oldest of more than KEPT is deleted. A server that
starts begins a new file, so that nothing is ever added to a line that was cut off; and so does an artifact that the
last one does not name.
"""

import errno
import fcntl
import itertools
import logging
import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from vitquant.errors import VitquantError
from vitquant.monitoring.records import PARSED, Head, Image

MOST = 16 << 20  # bytes of a file
KEPT = 16  # files
log = logging.getLogger(__name__)


@dataclass
class History:
    """What a log holds, in the order of its lines' numbers."""

    heads: list[Head] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    broken: int = 0
    """Lines that cannot be read: cut off, or of another form."""
    set_back: int = 0
    """How often a line's time is before that of the line before it."""


class Log:
    """Adds lines to the log in a folder, which no other process adds to meanwhile.

    A line that cannot be written, as on a full disk, is counted in `lost` and said once; it raises nothing.

    Raises:
        VitquantError: another process writes this log.
        OSError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path, most: int = MOST, kept: int = KEPT) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._most, self._kept, self._writing = folder, most, kept, threading.Lock()
        self._lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise VitquantError(f"{folder} is the log of a server that runs: give --log another folder") from None
        self.last = last(folder)
        """What the newest file held before."""
        self.lost = 0
        numbers = [*map(_number, _files(folder)[-1:]), *(line.seq for line in (*self.last.heads, *self.last.images))]
        self._next = 1 + max(numbers, default=0)
        self._file, self._size, self._failing = -1, 0, False
        self._named: set[str] = set()  # the artifacts of the file's head

    def write(self, head: Head, image: Image) -> None:
        """Add a line, its number, time and losses filled in.

        Args:
            head: what was known before the image, for a file that begins with it.
        """
        with self._writing:
            self._write(head, image)

    def _write(self, head: Head, image: Image) -> None:
        try:
            self._make_room(head, len(self._numbered(image)))
            self._append(self._numbered(image))
        except OSError as error:
            self.lost += 1
            if not self._failing:
                log.error("%s: %s: its lines are lost, and counted; serving goes on", self._folder, error.strerror)
            self._failing = True
            return
        if self._failing:
            log.warning("%s is written again; %d lines were lost", self._folder, self.lost)
        self._failing = False

    def close(self) -> None:
        """Let others write it."""
        with self._writing:
            for descriptor in (self._file, self._lock):
                if descriptor >= 0:
                    os.close(descriptor)

    def _numbered(self, line: Head | Image) -> bytes:
        update = {"seq": self._next, "time": round(time.time(), 3)}
        if isinstance(line, Image):
            update["lost"] = self.lost
        return (line.model_copy(update=update).model_dump_json() + "\n").encode("utf-8", "backslashreplace")

    def _make_room(self, head: Head, size: int) -> None:
        named = {each.sha256 for each in head.watched}
        deleted = self._file >= 0 and not os.fstat(self._file).st_nlink
        if self._file >= 0 and not deleted and self._size + size <= self._most and named <= self._named:
            return
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        path = self._folder / f"{self._next:012}.jsonl"
        self._file, self._size = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600), 0
        self._named = named
        try:
            self._append(self._numbered(head))
        except OSError:
            os.close(self._file)
            self._file = -1
            path.unlink()
            raise
        for old in _files(self._folder)[: -self._kept]:
            old.unlink()

    def _append(self, line: bytes) -> None:
        """Write a line, whole or not at all."""
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written
        self._next += 1


def read(path: Path) -> History:
    """All that a log holds: a folder, or one file of it.

    Raises:
        VitquantError: it is missing, or holds no image.
    """
    history = History()
    if not path.exists():
        raise VitquantError(f"{path} is missing: name the folder that `vitquant serve --log` writes")
    for file in _files(path) if path.is_dir() else [path]:
        _add(history, file)
    if not history.images or not history.heads:
        broken = f", and {history.broken} lines that are none of its" if history.broken else ""
        raise VitquantError(
            f"{path} holds no image that was compared{broken}: serve some with --shadow and --log first"
        )
    history.heads.sort(key=lambda head: head.seq)
    history.images.sort(key=lambda image: image.seq)
    times = [image.time for image in history.images]
    history.set_back = sum(after < before for before, after in itertools.pairwise(times))
    return history


def last(folder: Path) -> History:
    """What the newest file of a log holds that has a head; nothing where there is none."""
    history = History()
    for file in reversed(_files(folder)):
        _add(history, file)
        if history.heads:
            break
    return history


def _add(history: History, file: Path) -> None:
    for line in file.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            parsed = PARSED.validate_json(line)
        except ValidationError:
            history.broken += 1
            continue
        if isinstance(parsed, Head):
            history.heads.append(parsed)
        else:
            history.images.append(parsed)


def _files(folder: Path) -> list[Path]:
    return sorted((file for file in folder.glob("*.jsonl") if re.fullmatch("[0-9]{1,18}", file.stem)), key=_number)


def _number(file: Path) -> int:
    return int(file.stem)
