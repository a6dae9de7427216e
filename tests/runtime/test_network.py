"""The whole network in one native call, against the same integers in float64, on CPUs with and without VNNI."""

import copy
import subprocess
import sys
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vitquant import files
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.recipes.vitquant_int8.describe import describe
from vitquant.runtime import description, packing
from vitquant.runtime.description import LINEAR, Description
from vitquant.runtime.library import Library
from vitquant.runtime.network import Network

from .networks import CLASSES, NETWORKS, classifier, dinov2, images, quantized


def error(given: Any, expected: Any) -> float:
    """Relative, over all."""
    return float(np.linalg.norm(np.asarray(given) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected)))


@pytest.fixture(scope="module", params=NETWORKS)
def both(architecture: None, request: pytest.FixtureRequest) -> tuple[Any, Network, nn.Module]:
    """A model, the packed network, and that in float64."""
    model = classifier(request.param)
    return copy.deepcopy(model), *quantized(model)


def test_it_gives_what_its_integers_say(both: tuple[Any, Network, nn.Module]) -> None:
    """Attention's 16 bits, FP32 and the polynomials add little to what 8 bits do."""
    model, packed, reference = both
    pixels = images(model, 4)
    exact, expected = model(torch.from_numpy(pixels)), reference(torch.from_numpy(pixels).double())
    given = packed.forward(pixels, 2)
    assert given.shape == (4, CLASSES + model.backbone.num_features)
    for part in (slice(None, CLASSES), slice(CLASSES, None)):
        assert error(given[:, part], expected[:, part]) < 0.005
    assert error(expected, exact) < 0.2  # what the integers say is near the model


def test_neither_threads_nor_the_batch_change_a_bit(both: tuple[Any, Network, nn.Module]) -> None:
    model, packed, _ = both
    pixels = images(model, 5)
    alone = np.concatenate([packed.forward(image[None], 1) for image in pixels])
    for batch in (1, 2, 3, 5):
        for threads in range(1, 6):
            assert np.array_equal(packed.forward(pixels[:batch], threads), alone[:batch]), (batch, threads)


def test_it_runs_where_it_is_moved_to(both: tuple[Any, Network, nn.Module]) -> None:
    """As in a bundle."""
    model, packed, _ = both
    whole, places = packed.image()
    moved = packing.aligned(whole.shape, np.uint8)
    moved[:] = whole
    moved.view(np.uint64)[np.array(places) // 8] += np.uint64(moved.ctypes.data)
    pixels = images(model, 2)
    expected = packed.forward(pixels, 1)
    outputs = np.empty_like(expected)
    addresses = (c_void_p(array.ctypes.data) for array in (moved, pixels, outputs))
    packed._library.forward(*addresses, c_int64(len(pixels)), c_int(1))
    assert np.array_equal(outputs, expected)


def test_no_image_gives_nothing(both: tuple[Any, Network, nn.Module]) -> None:
    model, packed, _ = both
    assert packed.forward(images(model, 0), 2).shape == (0, CLASSES + model.backbone.num_features)


@pytest.mark.parametrize("gap", [0.0, 6.0, 8.0, 10.0])
def test_attention_adds_nothing_to_the_error_of_quantized_layers(architecture: None, gap: float) -> None:
    """At 518 pixels with four registers, one of which takes most of the attention in every block, and gives nothing."""
    torch.manual_seed(0)
    model = dinov2(518)
    make_sink(model.backbone, gap)
    pixels = torch.from_numpy(images(model, 1))
    exact = copy.deepcopy(model).double()(pixels.double())
    packed, reference = quantized(model)
    given, expected = torch.from_numpy(packed.forward(pixels.numpy(), 2)), reference(pixels.double())
    assert torch.linalg.norm(given - exact) < 1.03 * torch.linalg.norm(expected - exact)


def make_sink(backbone: Any, gap: float) -> None:
    """A first register whose key is `gap` above the others', as logits, for all queries, and whose values are 0."""
    width = backbone.embed_dim
    direction = torch.randint(0, 2, (width,)) * 2.0 - 1
    backbone.reg_token[:, 0] = 3 * direction  # LayerNorm makes it the direction itself
    for block in backbone.blocks:
        heads, depth = block.attn.num_heads, block.attn.head_dim
        query, key, value = block.attn.qkv.weight.view(3, heads, depth, width)
        bias = block.attn.qkv.bias.view(3, heads, depth)
        query[:, 0], bias[0, :, 0] = 0, 4.0
        key[:, 0], bias[1, :, 0] = direction / width * gap * depth**0.5 / 4, 0
        value -= (value @ direction)[..., None] * direction / width
        bias[2] = 0


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((1, 3, 32, 31), np.float32), r"\(N, 3, 32, 32\), not float32 \(1, 3, 32, 31\)"),
        (np.zeros((1, 3, 32, 32)), r"\(N, 3, 32, 32\), not float64 \(1, 3, 32, 32\)"),
        (np.zeros((3, 32, 32), np.float32), r"\(N, 3, 32, 32\), not float32 \(3, 32, 32\)"),
    ],
)
def test_other_images_are_refused(pixels: Any, said: str) -> None:
    packed, _ = quantized(classifier("heads of 32"))
    with pytest.raises(VitquantError, match=said):
        packed.forward(pixels, 1)


def test_images_may_lie_in_any_order() -> None:
    packed, _ = quantized(classifier("heads of 32"))
    pixels = images(classifier("heads of 32"), 2)
    last = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(packed.forward(last, 1), packed.forward(pixels, 1))


def test_each_tensor_is_taken_out_once_it_is_packed() -> None:
    model = classifier("heads of 32")
    its = describe(model)
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in its.shapes().items()}
    Network(its, arrays, "tensors", "a ViT")
    assert arrays == {}


@pytest.mark.parametrize("layer", LINEAR)
def test_integers_for_another_cpu_are_refused(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    its = describe(classifier("heads of 32"))
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in its.shapes().items()}
    arrays[f"backbone.blocks.1.{layer}.weight"][3, [8, 9, 12, 13]] = 50
    monkeypatch.setattr(Library, "largest_weight_sum", 199)
    with pytest.raises(UnsupportedError, match="^tensors was made on a CPU with VNNI, which this one lacks: quantize"):
        Network(its, dict(arrays), "tensors", "a ViT")
    monkeypatch.setattr(Library, "largest_weight_sum", 200)
    Network(its, dict(arrays), "tensors", "a ViT")


def test_it_needs_neither_pytorch_nor_timm() -> None:
    """Asked in a process of its own."""
    script = "import sys, vitquant.runtime.network; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert "numpy" in loaded
    assert not {"torch", "timm"} & set(loaded)


DESCRIPTION = describe(classifier("heads of 64, registers"))


def test_a_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    description.write(tmp_path, DESCRIPTION)
    assert description.read(tmp_path) == DESCRIPTION
    assert Description(48, 3, 8, 128, 2, 2, 64, 512, 5, CLASSES, 1e-6, False) == DESCRIPTION


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": -1}, "heads is -1, not a positive number"),
        ({"heads": 2.0}, "heads is 2.0, not"),
        ({"heads": True}, "heads is True, not"),
        ({"epsilon": "1"}, "epsilon is 1, not"),
        ({"norm_before": 1}, "norm_before is 1, not"),
        ({"side": 2**40}, "side is 1099511627776, not"),
        ({"side": 47}, "47 pixels do not divide into patches"),
        ({"pooling": "max"}, "pooling is max, not one of class and mean, token, mean, attention"),
        ({"activation": 1}, "activation is 1, not one of gelu, "),
        ({"skipped": 6}, "skipped is 6, more than the prefix"),
        ({"rotations": 3}, "rotations is 3, neither 0, nor 1, nor one for each head"),
        ({"rotations": 1, "depth": 63}, "heads of an odd depth do not rotate"),
        ({"pooling": "attention"}, "pool_heads is 0, which does not divide the width"),
        ({"more": 1}, "does not hold side, channels, .*, and these alone"),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    description.write(tmp_path, DESCRIPTION)
    file = tmp_path / description.FILE
    files.write_json(file, files.read_json(file) | change)
    with pytest.raises(VitquantError, match=f"network.json.*{said}.*: make it again with `dvc repro`"):
        description.read(tmp_path)


def test_a_description_of_before_is_one_of_a_plain_vit(tmp_path: Path) -> None:
    description.write(tmp_path, DESCRIPTION)
    file = tmp_path / description.FILE
    content = files.read_json(file)
    files.write_json(file, {name: content[name] for name in list(content)[:12]})
    assert description.read(tmp_path) == DESCRIPTION


def test_distances_beyond_the_tables_are_refused() -> None:
    its = describe(classifier("BEiT"))
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in its.shapes().items()}
    arrays["backbone.distances"][1, 2] = its.distances
    with pytest.raises(VitquantError, match="backbone.distances lead beyond the tables of biases: make it again"):
        Network(its, arrays, "tensors", "a ViT")


def test_an_artifact_of_before_has_to_be_made_again(tmp_path: Path) -> None:
    with pytest.raises(
        VitquantError, match="network.json is missing: make it again with `dvc repro`, or vitquant.quantize"
    ):
        description.read(tmp_path)
