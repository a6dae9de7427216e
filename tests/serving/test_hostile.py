"""Requests that are wrong, damaged, endless or too large: each gets a line that says so, and the server lives."""

import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from .running import PATIENCE, Running

INFER = "/v2/models/vitquant-int8/infer"
ONE = [1, 64, 64, 3]
LENGTH = "Inference-Header-Content-Length"


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says it has that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def image(form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (80, 80), "teal").save(stream, form, **options)
    return stream.getvalue()


def tensor(**changes: object) -> bytes:
    """A request in JSON."""
    return json.dumps(
        {"inputs": [{"name": "images", "datatype": "UINT8", "shape": ONE, "data": []} | changes]}
    ).encode()


def check(answer: requests.Response, *statuses: int) -> None:
    """It is one line that tells what was wrong, and nothing of the server's."""
    assert answer.status_code in statuses, answer.text
    assert answer.text.count("\n") == 1
    assert list(answer.json()) == ["error"]
    for secret in ("Traceback", "/tmp", "/home", ".py", "Error"):
        assert secret not in answer.text


NUMBERS = [0] * (64 * 64 * 3)
TENSORS = {
    "no JSON": (b"{", 400),
    "no UTF-8": (b"\xff\xfe", 400),
    "no object": (b"[1]", 400),
    "brackets": (b"[" * 100_000, 400),
    "a number of many digits": (b'{"inputs": ' + b"9" * 10_000 + b"}", 400),
    "no inputs": (b"{}", 400),
    "two inputs": (b'{"inputs": [{}, {}]}', 400),
    "a name": (tensor(name="pixels"), 400),
    "a datatype": (tensor(datatype="FP32"), 400),
    "NaN": (tensor(data=[float("nan")] * len(NUMBERS)), 400),
    "fractions": (tensor(data=[0.5] * len(NUMBERS)), 400),
    "truths": (tensor(data=[True] * len(NUMBERS)), 400),
    "text": (tensor(data=["0"] * len(NUMBERS)), 400),
    "256": (tensor(data=[*NUMBERS[1:], 256]), 400),
    "-1": (tensor(data=[*NUMBERS[1:], -1]), 400),
    "a huge number": (tensor(data=[*NUMBERS[1:], 10**30]), 400),
    "one number too few": (tensor(data=NUMBERS[1:]), 400),
    "lists of several lengths": (tensor(data=[[1], [1, 2]]), 400),
    "no data": (tensor(data=None), 400),
    "a shape of three": (tensor(shape=[64, 64, 3]), 400),
    "another side": (tensor(shape=[1, 224, 224, 3]), 400),
    "no images": (tensor(shape=[0, 64, 64, 3]), 400),
    "a shape that is no list": (tensor(shape="many"), 400),
    "a huge shape": (tensor(shape=[2**62, 64, 64, 3]), 413),
    "many images": (tensor(shape=[33, 64, 64, 3]), 413),
    "no base64": (tensor(datatype="BYTES", shape=[1], data=["$"]), 400),
    "no image in base64": (tensor(datatype="BYTES", shape=[1], data=["AAAA"]), 415),
    "an output": (tensor(data=NUMBERS)[:-1] + b', "outputs": [{"name": "weights"}]}', 400),
    "an id": (tensor(data=NUMBERS)[:-1] + b', "id": "' + b"x" * 300 + b'"}', 400),
    "binary data that is missing": (tensor(parameters={"binary_data_size": 12288}), 400),
    "binary data of a negative size": (tensor(parameters={"binary_data_size": -1}), 400),
    "parameters": (tensor(parameters=[1]), 400),
}
FILES = {
    "nothing": (b"", 415),
    "text": (b"GET / HTTP/1.1", 415),
    "a GIF": (image("GIF"), 415),
    "a BMP": (image("BMP"), 415),
    "a bomb": (png(60_000, 60_000), 413),
    "a bomb that Pillow refuses": (png(2**31 - 1, 2**31 - 1), 413),
    "more pixels than allowed": (png(1001, 1000), 413),
    "a PNG that ends": (image("PNG")[:-30], 422),
    "a JPEG that ends": (image("JPEG")[:-100], 422),
    "a WebP that ends": (image("WEBP")[:-20], 422),
    "a PNG without pixels": (png(100, 100), 422),
}


@pytest.fixture(autouse=True)
def _lives(server: Running):
    """The same processes are there afterwards, and answer."""
    before = {child.pid for child in psutil.Process(server.process.pid).children()}
    yield
    assert server.post(image("JPEG")).status_code == 200
    assert {child.pid for child in psutil.Process(server.process.pid).children()} == before


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_tensors(server: Running, name: str) -> None:
    body, status = TENSORS[name]
    check(server.post(body, INFER), status)


@pytest.mark.parametrize("name", FILES)
def test_wrong_files(server: Running, name: str) -> None:
    body, status = FILES[name]
    check(server.post(body), status)


def test_wrong_requests(server: Running) -> None:
    good = image("PNG")
    check(server.post(good, **{"Content-Type": "text/html"}), 415)
    check(server.post(good, **{"Content-Encoding": "gzip"}), 415)
    check(server.post(good, **{"Content-Type": "multipart/form-data"}), 400)
    check(server.post(good, **{"Content-Type": "multipart/form-data; boundary=x"}), 400)
    check(server.post(b"--x--\r\n", **{"Content-Type": "multipart/form-data; boundary=x"}), 400)
    check(server.post(good, **{"Content-Type": "image/" + "x" * 2000}), 415)
    for length in ("-1", "many", "1" * 20, "٣"):
        headers = {"Inference-Header-Content-Length": length.encode()}
        check(requests.post(server.url + INFER, tensor(), headers=headers, timeout=PATIENCE), 400)
    check(server.post(tensor(), INFER, **{"Inference-Header-Content-Length": "100000"}), 400)
    check(server.post(good, "/v2/models/vitquant-int8/versions/2/infer"), 404)
    check(server.post(good, "/v2/models/..%2f..%2fetc/infer"), 404)
    check(server.post(good, "/" + "x" * 5000), 404)
    check(requests.get(server.url + INFER, timeout=PATIENCE), 405)


def test_bodies_that_are_too_large_however_they_say_it(server: Running) -> None:
    large = bytes(1_000_001)
    check(server.post(large), 413)
    check(requests.post(f"{server.url}/predict", data=iter([large[:500_001]] * 2), timeout=PATIENCE), 413)
    answer = raw(server, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def raw(server: Running, *parts: bytes) -> bytes:
    """What the server says to these bytes."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        for part in parts:
            connection.sendall(part)
        return connection.recv(1 << 16)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http(server: Running, request_: bytes) -> None:
    assert raw(server, request_)[:10] == b"HTTP/1.1 4"


def test_a_client_that_ends_in_the_middle(server: Running) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this")
    server.wait(lambda: server.metric("vitquant_held_bytes") == 0)


def test_damaged_requests_by_the_hundred(server: Running) -> None:
    """Bytes of good requests are changed, cut and doubled: an answer each, none of them the server's own fault."""
    rng = np.random.default_rng(0)
    head = json.dumps(
        {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 0}}]}
    ).encode()
    good = [(image(form), "/predict") for form in ("PNG", "JPEG", "WEBP")] + [
        (tensor(data=NUMBERS), INFER),
        (head, INFER),
    ]
    with requests.Session() as session:
        for number in range(200):
            body, path = good[number % len(good)]
            content = bytearray(body)
            for place in rng.integers(0, len(content), 1 + number % 5):
                content[place] = rng.integers(256)
            if number % 3 == 0:
                content = content[: rng.integers(len(content))]
            answer = session.post(server.url + path, bytes(content), timeout=PATIENCE)
            assert answer.status_code in (200, 400, 413, 415, 422), answer.text
    assert server.metric('vitquant_recipe_failures_total{kind="died"') == 0
    assert "Traceback" not in server.log


def malformed(rng: np.random.Generator, good: dict[str, bytes]) -> Iterator[bytes]:
    """Requests, as they go over the wire, each wrong in another way: one of each kind."""
    form = str(rng.choice(list(good)))
    yield http("/predict", good[form][: rng.integers(1, len(good[form]) // 2)])
    yield http("/predict", rng.bytes(rng.integers(1, 2000)))
    yield http("/predict", png(*map(int, rng.integers(1001, 2**31, 2))))
    yield http(INFER, tensor(shape=rng.integers(-5, 300, rng.integers(0, 9)).tolist()))
    numbers: list[float] = [0.0] * len(NUMBERS)
    numbers[rng.integers(len(numbers))] = float(rng.choice([np.nan, np.inf, -np.inf]))
    yield http(INFER, tensor(data=numbers))
    yield http(INFER, tensor(parameters={"binary_data_size": int(rng.integers(2**62))}), f"{LENGTH}: 90")
    yield http(INFER, tensor(data=[]), f"{LENGTH}: {rng.integers(2000, 2**62)}")
    yield http("/predict", b"", f"Content-Length: {rng.integers(2_000_000, 2**62)}")
    yield http("/predict", b"", f"X-{rng.integers(99)}\0: {rng.integers(99)}")
    yield http("/predict", b"", rng.bytes(30).hex())  # a header without a colon


def http(path: str, body: bytes, *headers: str) -> bytes:
    """A POST."""
    length = () if any(header.startswith("Content-Length") for header in headers) else (f"Content-Length: {len(body)}",)
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, *length, "", ""]).encode() + body


def test_a_thousand_malformed_requests(server: Running) -> None:
    """Each is answered with 4xx; the server's processes are the same afterwards, and have not grown."""
    rng, good = np.random.default_rng(0), {form: image(form) for form in ("PNG", "JPEG", "WEBP")}
    processes = [psutil.Process(server.process.pid), *server.children("decoder")]  # no worker sees any of them
    resident: list[int] = []
    for _ in range(100):
        for request_ in malformed(rng, good):
            assert raw(server, request_)[:10] == b"HTTP/1.1 4", request_
        resident.append(sum(each.memory_info().rss for each in processes))
    assert resident[-1] < 1.05 * resident[49]  # by then allocators hold what they will
    assert "Traceback" not in server.log


def test_names_from_clients_are_nowhere(server: Running, images: Path) -> None:
    name = "<script>secret\x1b[31m.png"
    content = (images / "disc" / "000.png").read_bytes()
    for body in (content, b"none"):
        answer = requests.post(f"{server.url}/predict", files={"file": (name, body)}, timeout=PATIENCE)
        assert "secret" not in answer.text
    check(server.post(b"", "/v2/models/secret/infer"), 404)
    assert "secret" not in server.log
    assert "secret" not in requests.get(f"{server.url}/metrics", timeout=PATIENCE).text
