"""What an OpenVINO graph's quantized linear layers take: read from its file, so that the server needs no OpenVINO.

The graph is OpenVINO's intermediate representation, version 11: nodes and edges in XML, constants in a file beside it.
What an integer layer takes comes from a FakeQuantize, which clips to a range and rounds to evenly spaced levels in it
(https://docs.openvino.ai/latest/openvino_docs_ops_quantization_FakeQuantize_1.html). Where NNCF smoothed (SmoothQuant),
that takes a product of the layer's own input with a constant per channel, whose range differs by channel, then.

The graph has lost the layers' names: which is which its weights tell.
"""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, parse

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

GRAPH, CONSTANTS = "model.xml", "model.bin"
SMOOTHING = "/nncf_smooth_quant"  # how such a product's name ends; the model's own, as of a norm, are no smoothing
TYPES = {"f32": np.float32, "i8": np.int8}
SAME = 0.9  # cosine of a neuron's weights, in 8 bits and in FP32; two neurons have nothing like it


def read(folder: Path, weights: Path) -> dict[str, NDArray[np.float32]]:
    """By layer, the lowest and the highest input that is not clipped, (2, C), or (2, 1) where all channels share them.

    They are in the units of what enters the layer in FP32, and lie half a step beyond the last levels.

    Args:
        folder: where the graph lies.
        weights: of the FP32 model, as safetensors.

    Raises:
        OSError, ParseError, SafetensorError: a file is not there, or not whole.
    """
    graph, neurons = _Graph(folder), _first_neurons(weights)
    found = {}
    for node in graph.nodes.values():
        if not graph.matches(node, "MatMul"):
            continue
        quantizer, weight = graph.inputs(node)
        if not graph.matches(quantizer, "FakeQuantize") or not graph.matches(weight, "Multiply", "Convert", "Const"):
            continue
        values, *ends = graph.inputs(quantizer)
        smoothed = str(values.get("name")).endswith(SMOOTHING)
        factor = graph.constant(graph.inputs(values)[1]).ravel() if smoothed else np.ones(1, np.float32)
        shape, neuron = graph.first_neuron(weight, transposed=_data(node)["transpose_b"] == "true")
        if name := _named(neuron * factor, neurons.get(shape, {})):
            low, high = (graph.constant(end).ravel() for end in ends[:2])
            half = (high - low) / (int(_data(quantizer)["levels"]) - 1) / 2
            found[name] = np.stack([low - half, high + half]) / factor
    return found


class _Graph:
    def __init__(self, folder: Path) -> None:
        root = parse(folder / GRAPH).getroot()
        self._constants = folder / CONSTANTS
        self.nodes = {node.attrib["id"]: node for node in root.iterfind("layers/layer")}
        edges = [edge.attrib for edge in root.iterfind("edges/edge")]
        self._sources = {(edge["to-layer"], edge["to-port"]): edge["from-layer"] for edge in edges}

    def inputs(self, node: Element) -> list[Element]:
        """The nodes whose results this one takes."""
        ports = node.iterfind("input/port")
        return [self.nodes[self._sources[node.attrib["id"], port.attrib["id"]]] for port in ports]

    def matches(self, node: Element, *types: str) -> bool:
        """Whether it is of the first type, what it takes first of the second, and so on."""
        first, *others = types
        return node.get("type") == first and (not others or self.matches(self.inputs(node)[0], *others))

    def constant(self, node: Element) -> NDArray[Any]:
        """Its numbers; one alone is of shape (1,)."""
        data = _data(node)
        shape = tuple(int(length) for length in data["shape"].split(",") if length) or (1,)
        return np.memmap(self._constants, TYPES[data["element_type"]], "r", int(data["offset"]), shape)

    def first_neuron(self, weight: Element, *, transposed: bool) -> tuple[tuple[int, ...], NDArray[np.float32]]:
        """The shape of a weight, integers times scales, (N, K), and its first row."""
        converted, scale = self.inputs(weight)
        integers = self.constant(self.inputs(converted)[0])
        integers = integers if transposed else integers.T
        return integers.shape, integers[0] * self.constant(scale).ravel()[0]


def _first_neurons(weights: Path) -> dict[tuple[int, ...], dict[str, NDArray[np.float32]]]:
    """By shape and name, the first row of each layer's weight."""
    found: dict[tuple[int, ...], dict[str, NDArray[np.float32]]] = {}
    with safe_open(weights, "numpy") as file:
        for key in file.keys():  # noqa: SIM118
            if key.endswith(".weight"):
                part = file.get_slice(key)
                found.setdefault(tuple(part.get_shape()), {})[key.removesuffix(".weight")] = part[0]
    return found


def _named(neuron: NDArray[np.float32], neurons: dict[str, NDArray[np.float32]]) -> str | None:
    """Whose weights these are, but for rounding."""
    least = {name: SAME * np.linalg.norm(neuron) * np.linalg.norm(other) for name, other in neurons.items()}
    return next((name for name, other in neurons.items() if neuron @ other > least[name]), None)


def _data(node: Element) -> dict[str, str]:
    (data,) = node.iterfind("data")
    return data.attrib
