"""Values outside of calibrated ranges: counted where FP32 runs, in the log, the metrics and the page."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from vitquant import recipes
from vitquant.artifact import WEIGHTS_FILE, Artifact, open_artifact
from vitquant.cli import main
from vitquant.monitoring import log, ranges
from vitquant.params import Recipe
from vitquant.serving.metrics import Metrics
from vitquant.serving.settings import Shadowing
from vitquant.serving.shadow import Shadow

NAME = "static-int8"


@pytest.fixture(scope="module")
def static(fp32: Path, calibration: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("static") / NAME
    recipes.build(NAME, Recipe(method="static_int8"), fp32, path, calibration)
    return open_artifact(path)


def shares(fp32: Path, served: Artifact, folder: Path, images: NDArray[np.uint8]) -> tuple[list[float | None], str]:
    """Let FP32 see images; what the log has of each, and the metrics."""
    metrics = Metrics()
    shadow = Shadow([served], Shadowing(1, folder, fp32), metrics)

    async def compare() -> None:
        async with shadow.running(), asyncio.timeout(120):
            logits = np.zeros((len(images), len(served.spec.classes)), np.float32)
            shadow.offer("0" * 32, served.sha256, images, logits)
            while not folder.is_dir() or len(log.last(folder).images) < len(images):
                await asyncio.sleep(0.02)

    asyncio.run(compare())
    return [image.outside for image in log.read(folder).images], metrics.response().body.decode()


def test_images_unlike_those_of_calibration_have_more_outside(
    fp32: Path, static: Artifact, calibration: NDArray[np.uint8], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 2, calibration.shape, np.uint8) * 255
    found, metrics = shares(fp32, static, tmp_path / "log", np.concatenate([calibration, noise]))
    own, others = np.split(np.array(found, float), 2)
    assert own.max() < 1e-6
    assert others.min() > 1e-5
    assert f'vitquant_shadow_outside_count{{recipe="{NAME}"}} {len(found)}.0' in metrics
    result = CliRunner().invoke(main, ["monitor", str(tmp_path / "log"), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page.html").read_text()
    assert f"{100 * np.mean(found):.3g} % lay outside of the ranges that calibration fixed (24 images)" in page


def test_ranges_are_what_is_not_clipped(static: Artifact, fp32: Path) -> None:
    found = ranges.calibrated(static)
    layers = recipes.method("static_int8").module(static).named_modules()
    quantized = {name: layer for name, layer in layers if hasattr(layer, "input_scale")}
    assert found.keys() == quantized.keys() and found
    for name, layer in quantized.items():
        scale, zero = layer.numbers
        low, high = (end / scale + zero for end in found[name])
        assert (low, high) == pytest.approx((-0.5, layer.highest + 0.5))
    assert ranges.calibrated(open_artifact(fp32)) == {}


def test_an_artifact_that_is_gone_has_none(static: Artifact) -> None:
    (static.path / WEIGHTS_FILE).rename(static.path / "elsewhere")
    try:
        assert ranges.calibrated(static) == {}
    finally:
        (static.path / "elsewhere").rename(static.path / WEIGHTS_FILE)
