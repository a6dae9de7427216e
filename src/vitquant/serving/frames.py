"""What processes of the server say to each other: a length, uint64, little-endian, and as many bytes.

What the bytes are, fixed structures and arrays, is for those who talk: nothing is unpickled. A process that has ended,
or that says more than it may, is `DiedError` to the other.
"""

import asyncio
import signal
import socket
import struct
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterable, Iterator
from typing import Self

Bytes = bytes | bytearray | memoryview
LENGTH = struct.Struct("<Q")
BUFFER = 1 << 20  # bytes that the event loop reads ahead
ENDING = 0.5  # seconds for a process that has hung up, to end by itself


class DiedError(Exception):
    """The process at the other end has ended; the message says how."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"its process ended with code {code}")
        self.code = code
        """As subprocess has it: less than 0 for a signal."""

    @property
    def killed(self) -> bool:
        """Whether it was from outside, by SIGKILL: no input ends a process so."""
        return self.code == -signal.SIGKILL


def requests(connection: socket.socket) -> Iterator[bytearray]:
    """In the process itself: what it is sent, until the other end hangs up."""
    while (head := _receive(connection, LENGTH.size)) is not None:
        body = _receive(connection, LENGTH.unpack(head)[0])
        if body is None:
            return
        yield body


def _receive(connection: socket.socket, size: int) -> bytearray | None:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        try:
            read = connection.recv_into(rest)
        except ConnectionError:
            return None
        if not read:
            return None
        rest = rest[read:]
    return content


def answer(connection: socket.socket, *parts: Bytes) -> None:
    """In the process itself: send one frame that is made of parts."""
    connection.sendall(b"".join((LENGTH.pack(sum(map(len, parts))), *parts)))


class Child:
    """A process of this program, asked from the event loop, one question at a time."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int) -> None:
        self._process, self._reader, self._writer, self._most = process, reader, writer, most

    @classmethod
    async def start(cls, module: str, *arguments: str, most: int, quiet: bool = False) -> Self:
        """Run `module`'s main in a new interpreter: its arguments are a socket's number, and `arguments`.

        It is in a session of its own, so that Ctrl-C does not reach it; it ends when it is hung up on.

        Args:
            most: bytes that a frame of its may have.
            quiet: what it writes on stderr is dropped.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments),
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL if quiet else None,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=BUFFER)
        return cls(process, reader, writer, most)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def ask(self, parts: Iterable[Bytes]) -> bytes:
        """Send a frame that is made of parts, and wait for one.

        Raises:
            DiedError: there will be none.
        """
        parts = list(parts)
        try:
            self._writer.writelines([LENGTH.pack(sum(map(len, parts))), *parts])
            await self._writer.drain()
        except ConnectionError:
            raise DiedError(await self.end()) from None
        return await self.hear()

    async def hear(self) -> bytes:
        """Wait for a frame.

        Raises:
            DiedError: there will be none.
        """
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            if length > self._most:
                raise DiedError(await self.end())
            return await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise DiedError(await self.end()) from None

    async def ended(self) -> int:
        """Wait for its end: the exit code, less than 0 for a signal."""
        return await self._process.wait()

    async def end(self) -> int:
        """End it, unless it has ended by itself: the exit code."""
        self._writer.close()
        if self._process.returncode is None:
            try:
                async with asyncio.timeout(ENDING):  # what has hung up may be about to say how it ends
                    return await self._process.wait()
            except TimeoutError:
                self.kill()
        return await self._process.wait()

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
