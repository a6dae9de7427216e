"""A server whose artifact is swapped while it answers: nothing is lost, what is wrong is refused, alarms undo it."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from conftest import PREPROCESSING
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from vitquant import artifact, files, recipes, runtime
from vitquant.monitoring import log, story
from vitquant.params import Recipe

from .running import Running, serve

NAME = "vitquant-int8"
RECIPE = Recipe.model_validate({"method": "vitquant_int8"})


@pytest.fixture(scope="module")
def pixels(images: Path) -> NDArray[np.uint8]:
    return np.stack([PREPROCESSING.pixels(path) for path in sorted(images.rglob("*.png"))[::10]])


@pytest.fixture(scope="module")
def other(fp32: Path, calibration: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipe, calibrated by other images."""
    path = tmp_path_factory.mktemp("other") / "calibrated"
    recipes.build(NAME, RECIPE, fp32, path, 255 - calibration)
    return path


@pytest.fixture(scope="module")
def swapping(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A server of a link, of two workers, which compares with FP32 and is done with a probation after a second."""
    folder = tmp_path_factory.mktemp("swapping")
    point(folder / "current", artifacts / NAME)
    options = {"shadow": 1, "log": folder / "log", "fp32": artifacts / "fp32", "agreement": 50, "probation": 1}
    with serve(folder, folder / "current", workers=2, **options) as running:
        running.warm(NAME)
        yield running, folder / "current"


def point(link: Path, target: Path) -> None:
    """Let a link lead somewhere else, at once."""
    link.with_name("next").symlink_to(target)
    link.with_name("next").replace(link)


def changed(path: Path, source: Path, change: Callable[[dict], None]) -> Path:
    """A copy of an artifact, whose recipe.json is another."""
    shutil.copytree(source, path)
    spec = files.read_json(path / artifact.SPEC_FILE)
    change(spec)
    files.write_json(path / artifact.SPEC_FILE, spec)
    return path


def ask(running: Running, pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
    """A request of several images, which are so many batches; it raises where the answer is none."""
    client, inputs = running.client(), triton.InferInput("images", list(pixels.shape), "UINT8")
    inputs.set_data_from_numpy(pixels)

    def infer() -> NDArray[np.float32]:
        logits: NDArray[np.float32] = client.infer(NAME, [inputs]).as_numpy("logits")
        return logits

    return infer


def test_no_request_is_lost_and_each_is_answered_by_one_artifact(
    swapping: tuple[Running, Path], artifacts: Path, other: Path, pixels: NDArray[np.uint8]
) -> None:
    running, link = swapping
    expected = [runtime.load(path)(pixels) for path in (artifacts / NAME, other)]
    assert np.abs(expected[0] - expected[1]).max(axis=1).min() > 1e-3
    ended = threading.Event()

    def client() -> list[int]:
        infer, found = ask(running, pixels), []
        while not ended.is_set():
            logits = infer()
            (which,) = (number for number, each in enumerate(expected) if np.allclose(logits, each, rtol=0, atol=3e-4))
            found.append(which)
        return found

    with ThreadPoolExecutor(2) as threads:
        clients = [threads.submit(client) for _ in range(2)]
        try:
            running.wait(lambda: log.last(link.parent / "log").images)  # of the first one FP32 has seen some, too
            point(link, other)
            running.process.send_signal(signal.SIGHUP)
            running.wait(lambda: f"{other}: the probation is over" in running.log)
            running.wait(lambda: not running.children("worker", str(artifacts / NAME)))
            assert len(running.children("worker", str(other))) == 2
        finally:
            ended.set()
        for each in clients:
            found = each.result()
            assert found == sorted(found) and set(found) == {0, 1}
    running.wait(lambda: len(story.series(log.read(link.parent / "log"))) == 2)
    assert running.metric('vitquant_artifact_swaps_total{outcome="new"}') == 1


def test_what_cannot_take_its_place_is_refused_and_the_old_one_goes_on(
    swapping: tuple[Running, Path], artifacts: Path, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    running, link = swapping
    infer, now, source = ask(running, pixels), link.resolve(), artifacts / NAME
    before = infer()

    def rename(spec: dict) -> None:
        spec["classes"] = spec["classes"][::-1]

    def enlarge(spec: dict) -> None:
        spec["architecture"] = "vit_tiny_patch16_224"

    def forget(spec: dict) -> None:
        del spec["files"]["network.json"]

    damaged, forgetful = changed(tmp_path / "damaged", source, dict), changed(tmp_path / "forgetful", source, forget)
    (damaged / "network.json").write_text("{}")
    (forgetful / "network.json").unlink()
    cases = {
        now: "it is the artifact that answers already",
        artifacts / "fp32": "it differs in recipe from the artifact that answers: start a server of its own",
        changed(tmp_path / "model", source, enlarge): "it differs in architecture from the artifact that answers",
        changed(tmp_path / "classes", source, rename): "it differs in classes from the artifact that answers",
        damaged: f"{damaged / 'network.json'} has 2 bytes, expected",
        forgetful: "it does not load: ",
        tmp_path / "nothing": "is not an artifact directory",
    }
    for number, (target, said) in enumerate(cases.items(), start=1):
        point(link, target)
        running.process.send_signal(signal.SIGHUP)
        running.wait(lambda: running.metric('vitquant_artifact_swaps_total{outcome="refused"}') == number)  # noqa: B023
        assert said in running.log.splitlines()[-1]
        assert running.log.splitlines()[-1].endswith(": the artifact from before goes on")
    np.testing.assert_allclose(infer(), before, atol=3e-4)
    assert len(running.children("worker")) == 2


def test_an_alarm_on_probation_brings_the_old_one_back(
    artifacts: Path, fp32: Path, calibration: NDArray[np.uint8], pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    """Another model's classes are turned by one, so that every image differs; the folder itself is replaced.

    One of the old workers dies meanwhile, and none can take its place, since the folder has another artifact: the
    second one answers.
    """
    turned, served = tmp_path / "turned", tmp_path / "served"
    shutil.copytree(fp32, turned)
    weights = load_file(turned / artifact.WEIGHTS_FILE)
    weights |= {name: np.roll(each, 1, axis=0) for name, each in weights.items() if name.startswith("head.")}
    save_file(weights, turned / artifact.WEIGHTS_FILE)
    spec = files.read_json(turned / artifact.SPEC_FILE)
    spec["files"][artifact.WEIGHTS_FILE]["sha256"] = files.sha256(turned / artifact.WEIGHTS_FILE)
    files.write_json(turned / artifact.SPEC_FILE, spec)
    recipes.build(NAME, RECIPE, turned, tmp_path / "new", calibration)
    shutil.copytree(artifacts / NAME, served)
    options = {"shadow": 1, "log": tmp_path / "log", "fp32": artifacts / "fp32", "agreement": 50}
    with serve(tmp_path, served, workers=2, **options) as running:
        running.wait(lambda: running.log.count("is warm") == 2 and running.ready())
        infer = ask(running, pixels)
        before, (died, other) = infer(), running.children("worker")
        served.rename(tmp_path / "old")
        (tmp_path / "new").rename(served)
        running.process.send_signal(signal.SIGHUP)
        running.wait(lambda: f"{served} answers\n" in running.log)
        died.kill()
        running.wait(lambda: running.log.count("is another artifact than when the server started") >= 3)
        new = [child for child in running.children("worker") if child != other]
        running.wait(lambda: infer() is not None and "raised the alarm: " in running.log)
        np.testing.assert_allclose(infer(), before, atol=3e-4)
        running.wait(lambda: not any(child.is_running() for child in new))
        line = f'vitquant_shadow_alarm{{recipe="{NAME}"}}'
        running.wait(lambda: running.metric(line) == 0)
        running.process.send_signal(signal.SIGHUP)
        running.wait(lambda: "it has raised the alarm before: the artifact from before goes on" in running.log)
        np.testing.assert_allclose(infer(), before, atol=3e-4)
        assert running.metric('vitquant_artifact_swaps_total{outcome="back"}') == 1
