"""The Open Inference Protocol, version 2, over REST, with its extension for binary tensors: what requests say.

https://github.com/kserve/open-inference-protocol and Triton's `binary_tensor_data`. There is one input, `images`: UINT8
(N, side, side, 3), or BYTES (N), image files as they are, in JSON in base64. All of this runs in the decoder's process:
bodies may come from anybody.
"""

import base64
import binascii
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant.serving.refused import RefusedError

INPUT = "images"
OUTPUTS = ("logits", "probabilities", "class_names")
MOST_ID = 256  # bytes of a request's id
ELEMENT = struct.Struct("<I")  # before each element of a binary BYTES tensor: its length


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    images: NDArray[np.uint8] | list[bytes]
    """Pixels (N, side, side, 3), or the contents of image files."""
    outputs: tuple[tuple[str, bool], ...] = tuple((name, False) for name in OUTPUTS)
    """Their names, in order, and whether each is binary."""
    id: str = ""
    as_sent: bool = False
    """Whether the pixels are the body's last bytes, as they are."""


def parse(body: bytes | bytearray | memoryview, header_length: int | None, side: int, most: int) -> Asked:
    """A request for inference.

    Args:
        header_length: bytes of JSON, after which binary tensors come; None where all is JSON.
        side: of the model's images, pixels.
        most: images in a request.

    Raises:
        RefusedError: it is not right.
    """
    body = memoryview(body)
    end = len(body) if header_length is None else header_length
    if end > len(body):
        raise RefusedError(400, "Inference-Header-Content-Length is more than the body has")
    content = _json(bytes(body[:end]))
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RefusedError(400, f"inputs must be a list of one tensor, {INPUT}")
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise RefusedError(400, f"the input's name must be {INPUT}")
    shape, kind = _shape(tensor.get("shape")), tensor.get("datatype")
    if kind not in ("UINT8", "BYTES"):
        raise RefusedError(400, "the input's datatype must be UINT8, for pixels, or BYTES, for JPEG, PNG or WebP files")
    wanted = [shape[0], side, side, 3] if kind == "UINT8" else [shape[0]]
    if shape != wanted and not (kind == "BYTES" and shape == [shape[0], 1]):
        raise RefusedError(400, f"the input's shape must be [N, {side}, {side}, 3] of UINT8, or [N] of BYTES")
    if shape[0] > most:
        raise RefusedError(413, f"a request may hold at most {most} images")
    size = _parameters(tensor).get("binary_data_size")
    rest = body[end:]
    if size is None:
        if rest:
            raise RefusedError(400, "bytes come after the JSON, but the input has no binary_data_size")
        read = _pixels_of_json if kind == "UINT8" else _files_of_json
        images = read(tensor.get("data"), wanted)
    else:
        if type(size) is not int or size != len(rest) or "data" in tensor:
            raise RefusedError(400, "binary_data_size must be the number of bytes after the JSON, and instead of data")
        images = _pixels_of_bytes(rest, wanted) if kind == "UINT8" else _files_of_bytes(rest, shape[0])
    return Asked(images, _outputs(content), _id(content), as_sent=kind == "UINT8" and size is not None)


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):  # no UTF-8, numbers of thousands of digits, brackets in brackets
        raise RefusedError(400, "the body is not JSON that can be read") from None
    if not isinstance(found, dict):
        raise RefusedError(400, "the body's JSON must be an object")
    return found


def _shape(shape: Any) -> list[int]:
    if not isinstance(shape, list) or not shape or any(type(size) is not int or size < 1 for size in shape):
        raise RefusedError(400, "the input's shape must be a list of whole numbers, 1 or more")
    return shape


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RefusedError(400, "parameters must be an object")
    return parameters


def _pixels_of_json(data: Any, shape: list[int]) -> NDArray[np.uint8]:
    wrong = RefusedError(400, "the input's data must be whole numbers from 0 to 255, as many as its shape says")
    if not isinstance(data, list):
        raise wrong
    try:
        numbers = np.asarray(data)
    except (ValueError, OverflowError):  # lists of different lengths
        raise wrong from None
    if numbers.dtype.kind not in "iu" or numbers.shape not in (tuple(shape), (int(np.prod(shape)),)):
        raise wrong
    if numbers.min() < 0 or numbers.max() > 255:  # noqa: PLR2004
        raise wrong
    return numbers.astype(np.uint8).reshape(shape)


def _files_of_json(data: Any, shape: list[int]) -> list[bytes]:
    wrong = RefusedError(400, "the input's data must be a list of image files in base64, as many as its shape says")
    if not isinstance(data, list) or len(data) != shape[0]:
        raise wrong
    try:
        return [base64.b64decode(each[0] if isinstance(each, list) else each, validate=True) for each in data]
    except (TypeError, ValueError, IndexError, binascii.Error):
        raise wrong from None


def _pixels_of_bytes(data: memoryview, shape: list[int]) -> NDArray[np.uint8]:
    if len(data) != np.prod(shape):
        raise RefusedError(400, "the input has another number of bytes than its shape says")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _files_of_bytes(data: memoryview, count: int) -> list[bytes]:
    start = 0
    files: list[bytes] = []
    while start < len(data) and len(files) <= count:
        if len(data) - start < ELEMENT.size:
            break
        (size,) = ELEMENT.unpack_from(data, start)
        start += ELEMENT.size
        if size > len(data) - start:
            break
        files.append(bytes(data[start : start + size]))
        start += size
    if len(files) != count or start != len(data):
        raise RefusedError(
            400, "the input's bytes must be each file's length, four bytes, and the file, as its shape says"
        )
    return files


def _outputs(content: dict[str, Any]) -> tuple[tuple[str, bool], ...]:
    default = _parameters(content).get("binary_data_output", False)
    outputs = content.get("outputs") or [{"name": name} for name in OUTPUTS]
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise RefusedError(400, "outputs must be a list of objects")
    found = {}
    for output in outputs:
        name, parameters = output.get("name"), _parameters(output)
        if name not in OUTPUTS or name in found:
            raise RefusedError(400, f"outputs may be {', '.join(OUTPUTS)}, each once")
        if parameters.get("classification"):
            raise RefusedError(400, "the extension for classification is not offered: ask for class_names")
        found[name] = parameters.get("binary_data", default) is True
    return tuple(found.items())


def _id(content: dict[str, Any]) -> str:
    id_ = content.get("id", "")
    if not isinstance(id_, str) or len(id_.encode("utf-8", "surrogatepass")) > MOST_ID or not id_.isprintable():
        raise RefusedError(400, f"id must be text of at most {MOST_ID} bytes that can be printed")
    return id_
