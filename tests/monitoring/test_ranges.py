"""Values outside of calibrated ranges: counted where FP32 runs, in the log, the metrics and the page."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from vitquant import recipes
from vitquant.artifact import WEIGHTS_FILE, Artifact, open_artifact
from vitquant.cli import main
from vitquant.models.loading import load_model
from vitquant.monitoring import log, openvino_ranges, ranges
from vitquant.params import Recipe
from vitquant.serving.metrics import Metrics
from vitquant.serving.settings import Shadowing
from vitquant.serving.shadow import Shadow

STATIC = "static-int8"
OPENVINO = "openvino-int8-static"
BLOCKS = 6  # of test_vit


@pytest.fixture(scope="module")
def static(fp32: Path, calibration: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("static") / STATIC
    recipes.build(STATIC, Recipe(method="static_int8"), fp32, path, calibration)
    return open_artifact(path)


@pytest.fixture(scope="module")
def openvino(fp32: Path, calibration: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Built by a process of its own, which alone imports OpenVINO."""
    path = tmp_path_factory.mktemp("openvino") / OPENVINO
    recipe = Recipe.model_validate({"method": "openvino", "precision": "int8", "inference_precision": "f32"})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(recipes.build, OPENVINO, recipe, fp32, path, calibration).result()
    return open_artifact(path)


def shares(
    fp32: Path, served: list[Artifact], folder: Path, images: NDArray[np.uint8]
) -> tuple[list[list[float | None]], str]:
    """Let FP32 see images that each artifact answered; what the log has of each, and the metrics."""
    metrics, count = Metrics(), len(images) * len(served)
    shadow = Shadow(served, Shadowing(1, folder, fp32, waiting=count), metrics)

    async def compare() -> None:
        async with shadow.running(), asyncio.timeout(120):
            for each in served:
                logits = np.zeros((len(images), len(each.spec.classes)), np.float32)
                shadow.offer("0" * 32, each.sha256, images, logits)
            while not folder.is_dir() or len(log.last(folder).images) < count:
                await asyncio.sleep(0.02)

    asyncio.run(compare())
    lines = log.read(folder).images
    found = [[line.outside for line in lines if line.sha256 == each.sha256] for each in served]
    return found, metrics.response().body.decode()


def test_images_unlike_those_of_calibration_have_more_outside(
    fp32: Path, static: Artifact, openvino: Artifact, calibration: NDArray[np.uint8], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 2, calibration.shape, np.uint8) * 255
    images = np.concatenate([calibration, noise])
    found, metrics = shares(fp32, [static, openvino], tmp_path / "log", images)
    result = CliRunner().invoke(main, ["monitor", str(tmp_path / "log"), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page.html").read_text()
    for name, each in zip((STATIC, OPENVINO), found, strict=True):
        own, others = np.split(np.array(each, float), 2)
        assert own.max() < 1e-6, name
        assert others.min() > 1e-5, name
        assert f'vitquant_shadow_outside_count{{recipe="{name}"}} {len(images)}.0' in metrics
        assert f"{100 * np.mean(each):.3g} % lay outside of the ranges that calibration fixed (24 images)" in page


def test_ranges_are_what_is_not_clipped(static: Artifact, fp32: Path) -> None:
    found = ranges.calibrated(static, open_artifact(fp32))
    layers = recipes.method("static_int8").module(static).named_modules()
    quantized = {name: layer for name, layer in layers if hasattr(layer, "input_scale")}
    assert found.keys() == quantized.keys() and found
    for name, layer in quantized.items():
        scale, zero = layer.numbers
        ends = found[name] / scale + zero
        assert ends.ravel() == pytest.approx([-0.5, layer.highest + 0.5], abs=1e-3)
    assert ranges.calibrated(open_artifact(fp32), open_artifact(fp32)) == {}


def test_openvino_s_ranges_are_those_of_the_layers_own_inputs(
    openvino: Artifact, fp32: Path, calibration: NDArray[np.uint8]
) -> None:
    """Its calibration takes the whole range: of each layer some channel reaches either end, and none goes beyond."""
    opened = open_artifact(fp32)
    found = ranges.calibrated(openvino, opened)
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert found.keys() == {f"backbone.blocks.{block}.{layer}" for block in range(BLOCKS) for layer in layers}
    model, inputs = load_model(opened), {}
    for name in found:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: inputs.update({name: given[0].flatten(0, -2).numpy()})
        )
    with torch.inference_mode():
        model(opened.spec.preprocessing.normalise(torch.from_numpy(calibration)))
    for name, ends in found.items():
        assert ends.shape == (2, inputs[name].shape[1]), name  # smoothed: each channel has its own
        reached = np.stack([inputs[name].min(axis=0), inputs[name].max(axis=0)]) / ends
        assert (reached.max(axis=1) > 0.95).all() and (reached <= 1).all(), name


def test_an_artifact_that_is_gone_has_none(static: Artifact, openvino: Artifact, fp32: Path) -> None:
    for each, file in (
        (static, WEIGHTS_FILE),
        (openvino, openvino_ranges.GRAPH),
        (openvino, openvino_ranges.CONSTANTS),
    ):
        (each.path / file).rename(each.path / "elsewhere")
        try:
            assert ranges.calibrated(each, open_artifact(fp32)) == {}
        finally:
            (each.path / "elsewhere").rename(each.path / file)
