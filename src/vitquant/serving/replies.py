"""What the server answers: the protocol's metadata and tensors, and errors, each one line of JSON."""

import json
from typing import Any

import numpy as np
from fastapi import Response
from numpy.typing import NDArray

from vitquant.artifact import Spec
from vitquant.serving.model import probabilities
from vitquant.serving.protocol import ELEMENT, INPUT, OUTPUTS
from vitquant.serving.refused import RefusedError

VERSION = "1"  # of the model: there is one
SERVER = "vitquant"
RECIPE_HEADER = "X-Vitquant-Recipe"
ID_HEADER = "X-Vitquant-Id"
LENGTH_HEADER = "Inference-Header-Content-Length"
DATATYPES = {"logits": "FP32", "probabilities": "FP32", "class_names": "BYTES"}
TOP = 5  # classes that /predict gives


def line(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON on one line."""
    text = json.dumps(content, ensure_ascii=False, separators=(", ", ": "), allow_nan=False) + "\n"
    body = text.encode("utf-8", "backslashreplace")
    return Response(body, status, headers, "application/json")


def refusal(refused: RefusedError) -> Response:
    """Why not."""
    headers = {"Retry-After": str(refused.retry_after)} if refused.retry_after else None
    return line({"error": refused.why}, refused.status, headers)


def server(version: str, model: str) -> dict[str, Any]:
    """Of the server, and the models' names, which the protocol leaves out."""
    return {"name": SERVER, "version": version, "extensions": ["binary_tensor_data"], "models": [model]}


def model(name: str, spec: Spec) -> dict[str, Any]:
    """Of the model: one input, given in one of two ways, and its outputs."""
    side, classes = spec.preprocessing.crop, len(spec.classes)
    shapes = {"logits": [-1, classes], "probabilities": [-1, classes], "class_names": [-1]}
    return {
        "name": name,
        "versions": [VERSION],
        "platform": SERVER,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, side, side, 3]}],
        "outputs": [{"name": each, "datatype": DATATYPES[each], "shape": shapes[each]} for each in OUTPUTS],
        "parameters": {"classes": spec.classes, "also_takes": {"datatype": "BYTES", "shape": [-1]}},
    }


def inference(
    name: str, id_: str, given: str, recipe: str, classes: list[str], logits: NDArray[np.float32], outputs: Any
) -> Response:
    """The tensors that were asked for, in JSON, or binary after it.

    Args:
        id_: the client's.
        given: the server's own.
        logits: float32 (N, C).
        outputs: their names, and whether each is binary.
    """
    described, binary = [], b""
    for output, is_binary in outputs:
        tensor = _tensor(output, classes, logits)
        entry: dict[str, Any] = {"name": output, "datatype": DATATYPES[output], "shape": list(np.shape(tensor))}
        if is_binary:
            data = tensor.tobytes() if isinstance(tensor, np.ndarray) else _elements(tensor)
            entry["parameters"] = {"binary_data_size": len(data)}
            binary += data
        else:
            entry["data"] = tensor.reshape(-1).tolist() if isinstance(tensor, np.ndarray) else tensor
        described.append(entry)
    parameters = {"recipe": recipe}
    content = {"model_name": name, "model_version": VERSION, "parameters": parameters, "outputs": described}
    headers = {RECIPE_HEADER: _header(recipe), ID_HEADER: given}
    response = line(content | ({"id": id_} if id_ else {}), headers=headers)
    if any(is_binary for _, is_binary in outputs):
        header = bytes(response.body)
        response.headers[LENGTH_HEADER] = str(len(header))
        response.body = header + binary
        response.headers["Content-Length"] = str(len(response.body))
        response.headers["Content-Type"] = "application/octet-stream"
    return response


def prediction(given: str, recipe: str, classes: list[str], logits: NDArray[np.float32], seconds: float) -> Response:
    """Of one image: the most probable classes, and how long it took."""
    shares = probabilities(logits)[0]
    best = np.argsort(-shares, kind="stable")[:TOP]
    found = [{"class": classes[index], "probability": round(float(shares[index]), 6)} for index in best]
    content = {"id": given, "classes": found, "recipe": recipe, "milliseconds": round(1000 * seconds, 1)}
    return line(content, headers={RECIPE_HEADER: _header(recipe), ID_HEADER: given})


def _tensor(output: str, classes: list[str], logits: NDArray[np.float32]) -> NDArray[np.float32] | list[str]:
    if output == "class_names":
        return [classes[index] for index in logits.argmax(axis=1)]
    return logits if output == "logits" else probabilities(logits)


def _elements(names: list[str]) -> bytes:
    encoded = [name.encode("utf-8", "backslashreplace") for name in names]
    return b"".join(ELEMENT.pack(len(each)) + each for each in encoded)


def _header(recipe: str) -> str:
    return recipe.encode("ascii", "backslashreplace").decode()
