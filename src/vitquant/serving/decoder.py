"""The process that reads what clients send: parses the protocol, decodes and resizes images, and can do little else.

It may take so much memory and may not open files; the server ends it where it takes too long.
"""

import io
import json
import resource
import socket
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vitquant.images import Preprocessing, UndecodableError
from vitquant.serving import frames, protocol, uploads
from vitquant.serving.refused import RefusedError

FORMATS = ("JPEG", "PNG", "WEBP")
INFER, PREDICT = 0, 1
REQUEST = struct.Struct("<BqH")
"""Which endpoint, the JSON's length in bytes, or -1, and the content type's length; that and the body follow."""
REPLY = struct.Struct("<HHHHH?")
"""Status, images, which OUTPUTS, which of them binary, both as bits, the text's length, and whether the pixels are the
request's last bytes, as they are; the text follows, and pixels where they are not."""
BYTES_PER_PIXEL = 9  # that decoding takes at most
PER_BODY = 24  # bytes that reading JSON takes at most for a byte of it
SLACK = 64 << 20  # bytes for all else


def main(descriptor: str, preprocessing: str, megapixels: str, images: str, body_bytes: str) -> None:
    """Answer requests until the server hangs up."""
    connection = socket.socket(fileno=int(descriptor))
    decoder = Decoder(Preprocessing.model_validate(json.loads(preprocessing)), float(megapixels), int(images))
    decoder.warm_up()
    _confine(round(float(megapixels) * 1e6) * BYTES_PER_PIXEL + int(body_bytes) * PER_BODY + SLACK)
    for request in frames.requests(connection):
        frames.answer(connection, *decoder.answer(request))


def _confine(memory: int) -> None:
    """Take no more than `memory` bytes beyond what is taken, open and write no file, and leave no core dump."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, taken + memory),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


class Decoder:
    """Turns a request into pixels, or into why not.

    Args:
        megapixels: of an image at most.
        images: in a request at most.
    """

    def __init__(self, preprocessing: Preprocessing, megapixels: float, images: int) -> None:
        self._preprocessing, self._pixels, self._images = preprocessing, round(megapixels * 1e6), images

    def warm_up(self) -> None:
        """Decode one image of each format, so that all that is needed has been imported."""
        for name in FORMATS:
            stream = io.BytesIO()
            Image.new("RGB", (8, 8)).save(stream, name)
            self._decode(stream.getvalue())

    def answer(self, request: bytearray) -> tuple[frames.Bytes, ...]:
        """The reply's parts."""
        try:
            asked, pixels = self._read(request)
        except RefusedError as refused:
            return _reply(refused.status, 0, (), refused.why)
        except MemoryError:
            return _reply(413, 0, (), "reading it takes more memory than a request may take")
        reply = _reply(200, len(pixels), asked.outputs, asked.id, asked.as_sent)
        return reply if asked.as_sent else (*reply, pixels.data.cast("B"))

    def _read(self, request: bytearray) -> tuple[protocol.Asked, NDArray[np.uint8]]:
        endpoint, header_length, type_length = REQUEST.unpack_from(request)
        start = REQUEST.size + type_length
        body = memoryview(request)[start:]
        if endpoint == INFER:
            length = None if header_length < 0 else header_length
            asked = protocol.parse(body, length, self._preprocessing.crop, self._images)
        else:
            asked = protocol.Asked([uploads.parse(body, bytes(request[REQUEST.size : start]))])
        if isinstance(asked.images, np.ndarray):
            return asked, np.ascontiguousarray(asked.images)
        return asked, np.stack([self._decode(content) for content in asked.images])

    def _decode(self, content: bytes) -> NDArray[np.uint8]:
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except MemoryError:
            raise
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            bomb = isinstance(error, Image.DecompressionBombError)
            raise self._too_large() if bomb else RefusedError(415, "it is no JPEG, PNG or WebP image") from None
        except Exception:  # Pillow's plug-ins raise any on a damaged file
            raise RefusedError(422, "the image's header is damaged") from None
        if image.width * image.height > self._pixels:
            raise self._too_large()
        try:
            return self._preprocessing.pixels(image)
        except UndecodableError:
            raise RefusedError(422, "the image is damaged, or of a kind whose range of values is not known") from None

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"an image may have at most {self._pixels} pixels")


def _reply(
    status: int, images: int, outputs: tuple[tuple[str, bool], ...], text: str, as_sent: bool = False
) -> tuple[bytes, bytes]:
    words = text.encode("utf-8", "backslashreplace")
    return REPLY.pack(status, images, *masks(outputs), len(words), as_sent), words


def masks(outputs: tuple[tuple[str, bool], ...]) -> tuple[int, int]:
    """Which of OUTPUTS there are, and which of those are binary, as bits."""
    bits = {name: 1 << number for number, name in enumerate(protocol.OUTPUTS)}
    return sum(bits[name] for name, _ in outputs), sum(bits[name] for name, binary in outputs if binary)


if __name__ == "__main__":
    main(*sys.argv[1:])
