"""Files from the web or from this disk, checked by their digest; a download that was cut goes on where it ended.

What has arrived lies in `$VITQUANT_CACHE`, or `~/.cache/vitquant`, as `<digest>-<name>.partial` until the file
is whole, so that it outlives a stage that fails or is killed.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies, select_proxy
from tqdm import tqdm

from vitquant import files
from vitquant.errors import VitquantError
from vitquant.urls import shown

Algorithm = Literal["md5", "sha256"]

CONNECT_TIMEOUT = 5.0  # seconds, for each address of a host
REACH_TIMEOUT = 7.0  # seconds, for the name's lookup and all addresses together
READ_TIMEOUT = 15.0  # seconds without a byte
ATTEMPTS = 4  # in a row that bring nothing new
BACKOFF = 0.5  # seconds before the second attempt, doubled before each further one
CHUNK = 2**18  # bytes
LARGEST = 10_000_000_000  # bytes of a file: a server that sends on and on would fill the disk


class _CutError(Exception):
    """A request that ended early, for a reason that may pass."""


def download(
    url: str, destination: Path, algorithm: Algorithm, digest: str, *, key: str = "the URL in params.yaml"
) -> None:
    """Put the file at `url` at `destination`, once its digest is right.

    Args:
        url: http, https, or `file:///…` for a file on this disk, which is copied.
        destination: the file's path; what is there before is replaced.
        algorithm: of `digest`.
        digest: what the file must have, hexadecimal in lower case.
        key: what the messages tell the user to change.

    Raises:
        VitquantError: the host cannot be reached, refuses, stops sending, or sends more than LARGEST, or the digest is
            another one.
        OSError: the disk is full.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    if url.startswith("file:"):
        _copy(url, destination, algorithm, digest, key)
        return
    partial = _partial(url, digest)
    with _open_alone(partial) as file:
        offset = file.seek(0, os.SEEK_END)
        if not offset or _digest(partial, algorithm) != digest:
            check_reachable(url, key)
            with tqdm(
                desc=partial.stem.partition("-")[2], initial=offset, unit="B", unit_scale=True, mininterval=0.5
            ) as bar:
                _fetch(url, file, bar, key)
            file.flush()
            got = _digest(partial, algorithm)
            if got != digest:
                partial.unlink()
                raise VitquantError(_mismatch(url, algorithm, got, digest, key))
        _move(partial, destination)


def _copy(url: str, destination: Path, algorithm: Algorithm, digest: str, key: str) -> None:
    source = Path(unquote(urlsplit(url).path))
    if not source.is_file():
        raise VitquantError(f"{shown(url)}: {source} is not a file: correct {key}")
    with files.atomic(destination) as partial:
        try:
            shutil.copyfile(source, partial)
        except PermissionError:
            raise VitquantError(f"{shown(url)}: {source} may not be read: mend its permissions, or {key}") from None
        got = _digest(partial, algorithm)
        if got != digest:
            raise VitquantError(_mismatch(url, algorithm, got, digest, key))


def _mismatch(url: str, algorithm: Algorithm, got: str, expected: str, key: str) -> str:
    name = {"md5": "MD5", "sha256": "SHA-256"}[algorithm]
    return f"{shown(url)}: {name} is {got}, params.yaml expects {expected}: do not use this file; check {key}"


def _digest(path: Path, algorithm: Algorithm) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _partial(url: str, digest: str) -> Path:
    """Where the file's bytes gather; its folder is made."""
    name = re.sub("[^A-Za-z0-9._-]", "_", unquote(re.split("[?#]", url)[0].rpartition("/")[2]))[:100]
    return files.cache_root() / f"{digest}-{name}.partial"


def _open_alone(partial: Path) -> IO[bytes]:
    """The partial file, opened for appending and locked against other processes until it is closed."""
    try:
        file = os.fdopen(files.open_private(partial), "ab")
    except PermissionError:
        raise VitquantError(f"{partial} may not be written: set VITQUANT_CACHE to a folder of your own") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), partial.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    raise VitquantError(f"{partial} is being downloaded by another process: wait until that one has ended")


def check_reachable(url: str, key: str) -> None:
    """Connect once to the URL's host, or to the proxy that leads to it, so that a lack of network shows at once.

    In a thread of its own, since a name's lookup has no timeout.

    Args:
        key: what the message tells the user to change.

    Raises:
        VitquantError: no connection within seconds; the message names the host.
    """
    try:
        parts = urlsplit(url)
        host, proxy = parts.hostname, select_proxy(url, get_environ_proxies(url))
        via = urlsplit(proxy if "://" in proxy else f"//{proxy}") if proxy else parts
        address = (via.hostname, via.port or {"https": 443, "socks5": 1080, "socks5h": 1080}.get(via.scheme, 80))
    except ValueError:  # whose text may hold a password
        raise VitquantError(f"{shown(url)} is not a URL, by its host or port: correct {key}") from None
    through = f" through the proxy {address[0]}:{address[1]}" if proxy else ""
    outcome = []

    def connect() -> None:
        try:
            socket.create_connection(address, CONNECT_TIMEOUT).close()
            outcome.append("")
        except OSError as error:
            outcome.append(error.strerror or str(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(REACH_TIMEOUT)
    reason = outcome[0] if outcome else "no answer"
    if reason:
        raise VitquantError(
            f"cannot reach {host}{through} ({reason}): check the network, or point {key} at a mirror or a file"
        )


def _fetch(url: str, file: IO[bytes], bar: "tqdm[Any]", key: str) -> None:
    """Append to `file` until it is whole, in as many requests as that takes while each brings something new."""
    best = failures = 0
    while True:
        try:
            _request(url, file, bar, key)
            return
        except _CutError as error:
            reason = str(error)
        size = file.tell()
        failures = 0 if size > best else failures + 1
        best = max(best, size)
        if failures == ATTEMPTS:
            kept = f"; {size} bytes are kept in {file.name}" if size else ""
            raise VitquantError(
                f"{shown(url)}: {reason}, {ATTEMPTS} times in a row{kept}: "
                f"run again later to go on, or point {key} at a mirror or a file"
            )
        bar.set_postfix_str(f"again: {reason}")
        time.sleep(BACKOFF * 2 ** max(failures - 1, 0))


def _request(url: str, file: IO[bytes], bar: "tqdm[Any]", key: str) -> None:
    """Ask once for what `file` lacks and append it.

    Raises:
        _CutError: not all came; another attempt may bring more.
        VitquantError: no attempt will.
    """
    offset = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response:
            _check_status(response, url, offset, file, key)
            offset, total = _align(response, offset, file)
            bar.n, bar.total = offset, total
            bar.refresh()
            most = LARGEST if total is None else total
            _check_size(most, LARGEST, url, file, key)
            # Not iter_content: it waits for whole chunks and drops the begun one when the connection is cut.
            while block := response.raw.read1(CHUNK):
                file.write(block)
                bar.update(len(block))
                _check_size(file.tell(), most, url, file, key)
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise _CutError(f"the server sends nothing for {READ_TIMEOUT:g} s") from None
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise VitquantError(f"{shown(url)}: no connection ({_line(error)}): check the network and {key}") from None
    except (requests.ConnectionError, urllib3.exceptions.HTTPError):
        raise _CutError("the connection is lost") from None
    except requests.RequestException as error:
        raise VitquantError(f"{shown(url)}: {_line(error)}: correct {key}") from None
    if total is not None and file.tell() < total:
        raise _CutError("the connection is lost")


def _check_status(response: requests.Response, url: str, offset: int, file: IO[bytes], key: str) -> None:
    status = response.status_code
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
        _empty(file)
        raise _CutError("the server's file is shorter than what is there")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _CutError(f"the server answers {status} {response.reason}")
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise VitquantError(f"{shown(url)}: the server answers {status} {response.reason}: correct {key}")


def _check_size(size: int, most: int, url: str, file: IO[bytes], key: str) -> None:
    """Give up, and keep nothing, where a file has or will have more bytes than it may."""
    if size > most:
        _empty(file)
        raise VitquantError(f"{shown(url)}: the server sends more than {most} bytes: no such file; check {key}")


def _align(response: requests.Response, offset: int, file: IO[bytes]) -> tuple[int, int | None]:
    """Where the answer's first byte belongs, and the whole file's size where the server says so, both in bytes.

    `file` is emptied where the answer does not go on at its end.

    Raises:
        _CutError: it is another part of the file than was asked for.
    """
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        total = int(found[2]) if found and found[2] != "*" else None
        if found and int(found[1]) == offset and (total is None or total >= offset):
            return offset, total
        _empty(file)
        raise _CutError("the server answers with another part of the file")
    _empty(file)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _empty(file: IO[bytes]) -> None:
    file.truncate(0)
    file.seek(0)


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()))[:200]


def _move(partial: Path, destination: Path) -> None:
    try:
        partial.replace(destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with files.atomic(destination) as beside:
            shutil.copyfile(partial, beside)
        partial.unlink()
