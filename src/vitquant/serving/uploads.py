"""An image file in a request of its own: as the body, or in a form, as `curl -F` and browsers send it."""

from collections.abc import Callable
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from vitquant.serving.refused import RefusedError

FORM = b"multipart/form-data"
WHOLE = (b"", b"application/octet-stream", b"application/x-www-form-urlencoded")  # the last is curl's --data-binary


def parse(body: bytearray | memoryview, content_type: bytes) -> bytes:
    """The file's content.

    Raises:
        RefusedError: it is none, or not one.
    """
    kind, options = parse_options_header(content_type)
    if kind in WHOLE or kind.startswith(b"image/"):
        return bytes(body)
    if kind != FORM:
        raise RefusedError(415, "send an image file as the body, or in a form: curl -F file=@image.jpg")
    files: list[bytearray] = []
    try:
        parser = MultipartParser(options.get(b"boundary", b""), _callbacks(files))
        parser.write(bytes(body))
        parser.finalize()
    except (FormParserError, ValueError):
        raise RefusedError(400, "the form cannot be read") from None
    if len(files) != 1:
        raise RefusedError(400, "the form must hold one file: curl -F file=@image.jpg")
    return bytes(files[0])


def _callbacks(files: list[bytearray]) -> Any:
    """Which put the parts that are files, by their headers, into `files`."""
    name, value, is_file = bytearray(), bytearray(), False

    def begin() -> None:
        nonlocal is_file
        is_file = False

    def field(data: bytes, start: int, end: int) -> None:
        name.extend(data[start:end])

    def content(data: bytes, start: int, end: int) -> None:
        value.extend(data[start:end])

    def header() -> None:
        nonlocal is_file
        if bytes(name).lower() == b"content-disposition" and b"filename" in parse_options_header(bytes(value))[1]:
            is_file = True
            files.append(bytearray())
        name.clear()
        value.clear()

    def data(data: bytes, start: int, end: int) -> None:
        if is_file:
            files[-1] += data[start:end]

    callbacks: dict[str, Callable[..., None]] = {
        "on_part_begin": begin,
        "on_header_field": field,
        "on_header_value": content,
        "on_header_end": header,
        "on_part_data": data,
    }
    return callbacks
