"""A server that compares with FP32: what it logs is so, it never waits for that, and the page shows it."""

import csv
import json
import re
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import handmade
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from vitquant import artifact, files, recipes, runtime
from vitquant.cli import main
from vitquant.monitoring import log, records
from vitquant.serving import choice
from vitquant.serving.model import probabilities

from .running import Running, serve

NAME = "vitquant-int8"
COMPARED = f'vitquant_shadow_images_total{{recipe="{NAME}"}}'


def shadowing(folder: Path, artifacts: Path, **options: object):
    given = {"shadow": 1, "log": folder / "log", "fp32": artifacts / "fp32", "agreement": 80, "log_images": 2}
    return serve(folder, artifacts / NAME, artifacts / "second", **(given | options))


@pytest.fixture(scope="module")
def shadowed(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    folder = tmp_path_factory.mktemp("shadowed")
    with shadowing(folder, artifacts) as running:
        running.warm(NAME)
        yield running, folder


def monitor(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["monitor", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def shadow_process(running: Running) -> psutil.Process:
    running.wait(lambda: running.children("shadow_worker"))
    return running.children("shadow_worker")[0]


def test_what_is_logged_is_what_both_make_of_it(shadowed, artifacts: Path, images: Path) -> None:
    running, folder = shadowed
    paths = sorted(images.rglob("*.png"))[:12]
    ids = [running.post(path.read_bytes()).json()["id"] for path in paths]
    running.wait(lambda: running.metric(COMPARED) >= 12)
    running.wait(lambda: len(log.read(folder / "log").images) >= 12)
    found = {image.id: image for image in log.read(folder / "log").images}
    served = runtime.load(artifacts / NAME)(paths)
    outputs = recipes.load(artifacts / "fp32").outputs(paths)
    theirs = outputs[:, : served.shape[1]]
    lines = [found[each] for each in ids]
    np.testing.assert_array_equal([line.served for line in lines], served.argmax(axis=1))
    np.testing.assert_array_equal([line.fp32 for line in lines], theirs.argmax(axis=1))
    distance = np.abs(probabilities(served) - probabilities(theirs)).sum(axis=1) / 2
    np.testing.assert_allclose([line.total_variation for line in lines], distance, atol=1e-5)
    embedding = np.stack([records.unpacked(line.embedding) for line in lines])
    np.testing.assert_allclose(embedding, outputs[:, served.shape[1] :], rtol=2e-3, atol=2e-3)
    assert shadow_process(running).nice() == 19
    assert "alarm if more than 20.00 % differ from fp32" in running.log


def test_the_page_and_labels(shadowed, images: Path, tmp_path: Path) -> None:
    running, folder = shadowed
    content = (images / "disc" / "000.png").read_bytes()
    name = running.post(content).headers["X-Vitquant-Id"]
    running.wait(lambda: name in {image.id for image in _lines(folder)})
    said = monitor(folder / "log", "--out", tmp_path / "page.html")
    assert len(said.splitlines()) == 1
    assert re.match(rf"{NAME}: \d+ of \d+ images have another class than with fp32.*no alarm", said), said
    assert "are too few: 50 are needed" in said
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") >= 2 and "None were given" in page
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), (name, "disc"), ("another", "disc")])
    monitor(folder / "log", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "page.html")
    assert "Prediction-powered" in (tmp_path / "page.html").read_text()
    (tmp_path / "labels.csv").write_text("id,label\nanother,disc\n")
    result = CliRunner().invoke(
        main, ["monitor", str(folder / "log"), "--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "p")]
    )
    assert (result.exit_code, "none of its ids is in" in result.output) == (1, True)
    assert not (tmp_path / "p").exists()


def _lines(folder: Path) -> list[records.Image]:
    return log.last(folder / "log").images


def test_it_is_behind_and_dies_and_nobody_waits_for_it(shadowed, images: Path) -> None:
    running, folder = shadowed
    content = (images / "disc" / "000.png").read_bytes()
    process = shadow_process(running)
    running.wait(lambda: f"{running.metric(COMPARED):.0f}" == str(len(_lines(folder))))
    process.suspend()
    for _ in range(40):
        assert running.post(content).status_code == 200
    assert running.metric("vitquant_shadow_skipped_total") >= 7
    process.kill()
    running.wait(lambda: "the process that compares with fp32 ended" in running.log)
    before = running.metric(COMPARED)
    running.wait(lambda: running.metric(COMPARED) > before)  # another has taken its place
    running.wait(lambda: _lines(folder)[-1].skipped >= 8)


def test_on_a_full_disk_serving_goes_on_and_the_loss_is_counted(shadowed, images: Path) -> None:
    running, folder = shadowed
    content = (images / "disc" / "000.png").read_bytes()
    pid, lost = running.process.pid, "vitquant_shadow_lost_lines_total"
    name = running.post(content).json()["id"]
    running.wait(lambda: name in {image.id for image in _lines(folder)})
    (file,) = (folder / "log").glob("*.jsonl")
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size + 100, limits[1]))
    try:
        for _ in range(3):
            assert running.post(content).status_code == 200
        running.wait(lambda: running.metric(lost) >= 3)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    name = running.post(content).json()["id"]
    running.wait(lambda: name in {image.id for image in _lines(folder)})
    assert _lines(folder)[-1].lost == running.metric(lost) == 3
    assert "its lines are lost, and counted; serving goes on" in running.log
    running.wait(lambda: "is written again; 3 lines were lost" in running.log)
    assert ", 3 lines lost" in monitor(folder / "log", "--out", folder / "page.html")


def test_one_image_again_and_again_is_a_change_of_the_inputs(shadowed, images: Path, artifacts: Path) -> None:
    running, folder = shadowed
    content = (images / "disc" / "000.png").read_bytes()
    while len(_lines(folder)) < 80:
        assert running.post(content).status_code == 200
    said = monitor(folder / "log", "--out", folder / "page.html")
    assert "; the inputs changed (last " in said
    said = monitor(folder / "log", "--fp32", artifacts / "second", "--out", folder / "page.html")
    assert "whether the inputs changed is not known" in said and "is another artifact than the log's" in said


def test_a_model_that_differs_alarms_and_a_new_server_remembers(artifacts: Path, images: Path, tmp_path: Path) -> None:
    """FP32's classes are turned by one, so that every image differs."""
    fp32 = tmp_path / "fp32"
    shutil.copytree(artifacts / "fp32", fp32)
    spec = files.read_json(fp32 / artifact.SPEC_FILE)
    weights = load_file(fp32 / artifact.WEIGHTS_FILE)
    turned = {name: np.roll(each, 1, axis=0) if name.startswith("head.") else each for name, each in weights.items()}
    save_file(turned, fp32 / artifact.WEIGHTS_FILE)
    spec["files"][artifact.WEIGHTS_FILE]["sha256"] = files.sha256(fp32 / artifact.WEIGHTS_FILE)
    files.write_json(fp32 / artifact.SPEC_FILE, spec)
    content = (images / "disc" / "000.png").read_bytes()
    line = f'vitquant_shadow_alarm{{recipe="{NAME}"}}'
    with shadowing(tmp_path, artifacts, fp32=fp32) as running:
        running.warm(NAME)
        running.wait(lambda: running.post(content).status_code == 200 and running.metric(line) == 1)
        assert f"ALARM: {NAME} differs from fp32 more than it should" in running.log
        running.wait(lambda: any(image.alarm for image in _lines(tmp_path)))
        running.process.send_signal(signal.SIGTERM)
        running.process.wait()
    seen = len(_lines(tmp_path))
    with shadowing(tmp_path, artifacts, fp32=fp32) as running:
        running.warm(NAME)
        assert running.metric(line) == 1
        assert f"seen before: {seen} images, {seen} of which differ" in running.log
        assert "has raised it before, at image " in running.log
        assert monitor(tmp_path / "log", "--out", tmp_path / "page.html").startswith("ALARM at image ")
    assert "data:image/png;base64" in (tmp_path / "page.html").read_text()
    pictures = list((tmp_path / "log" / "images").glob("*.png"))
    assert len(pictures) == 2 and not any(each.stat().st_mode & 0o77 for each in (tmp_path / "log", *pictures))
    kept = json.loads((tmp_path / "log" / "000000000001.jsonl").read_text().splitlines()[0])
    assert kept["kind"] == "head" and kept["version"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shadow", "nan", "--log", "log"], "nan is not a number"),
        (["--agreement", "99"], "do nothing without --shadow and --log"),
        (["--shadow", "0.5"], "--shadow, the share of images, and --log, a folder, go together"),
        (["--shadow", "1", "--log", "log", "--fp32", "none"], "none is not an artifact directory"),
        (["--shadow", "1", "--log", "log", "--agreement", "100"], "is not in the range 0<x<100"),
    ],
)
def test_wrong_use_is_said(artifacts: Path, tmp_path: Path, options: list[str], said: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["serve", "--artifact", str(artifacts / NAME), "--port", "0", *options])
    assert result.exit_code
    assert said in result.output


def test_the_studys_agreement_counts_with_its_uncertainty(tmp_path: Path) -> None:
    findings = handmade.findings()
    files.write_json(tmp_path / "findings.json", findings.model_dump())
    found = choice.disagreements(tmp_path / "findings.json")
    assert found and "fp32" not in found
    for name, bound in found.items():
        accuracy = findings.study.recipes[name].accuracy
        assert accuracy and accuracy.agreement_pct is not None
        assert 1 - accuracy.agreement_pct / 100 < bound < 1
