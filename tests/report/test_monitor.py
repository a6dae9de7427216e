"""What `vitquant monitor` says of a log, and what its page shows."""

import re
from pathlib import Path

import pytest

from vitquant.monitoring.log import Log
from vitquant.monitoring.records import Head, Image, Watched
from vitquant.report import monitor

OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of an artifact with one image of 300 that differs, and of one that followed: 20 of 60, an alarm."""
    folder = tmp_path_factory.mktemp("swapped") / "log"
    writer, watched = Log(folder), []
    for sha256, every, count in ((OLD, 300, 300), (NEW, 3, 60)):
        watched.append(Watched(bound=0.05, recipe="static-int8", sha256=sha256))
        for number in range(1, count + 1):
            head = Head(sampled=1.0, classes=["a", "b"], fp32="none", fp32_sha256=OLD, watched=[*watched])
            head, differs = head.model_copy(deep=True), number % every == 0
            line = Image(
                id=f"{len(watched)}{number:031x}", sha256=sha256, served=int(differs), fp32=0, served_confidence=0.9,
                fp32_confidence=0.9, fp32_of_served=0.1, total_variation=0.1, cosine=1.0, embedding="",
                alarm=watched[-1].add(differs),
            )  # fmt: skip
            writer.write(head, line)
    writer.close()
    return folder


def test_an_alarm_of_an_artifact_with_few_images_is_said(folder: Path, tmp_path: Path) -> None:
    said = monitor.report(folder, None, None, tmp_path / "page.html")
    assert re.match(r"static-int8@a{8}: 1 of 300 images", said)  # which most of the last images are of
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    assert re.search(rf"; ALARM at image \d+ \({when}\): more than 5.00 % differ; static-int8@b{{8}}: 20 of 60", said)
    page = (tmp_path / "page.html").read_text()
    assert re.search(rf"360 images, from {when} to {when}, by the server.s clock", page)
    for each in (OLD, NEW):
        assert f"<code>static-int8@{each[:8]}</code>" in page


def test_labels_of_one_artifact_alone(folder: Path, tmp_path: Path) -> None:
    rows = [f"2{number:031x},{'b' if number % 3 == 0 else 'a'}" for number in range(1, 61)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *rows]))
    said = monitor.report(folder, tmp_path / "labels.csv", None, tmp_path / "page.html")
    assert "; static-int8@bbbbbbbb: by 60 labels top-1 100.00 [" in said and "static-int8@aaaaaaaa: by" not in said
    section = (tmp_path / "page.html").read_text().split("Prediction-powered", 1)[1]
    assert "static-int8@bbbbbbbb" in section and "static-int8@aaaaaaaa" not in section
    assert ">100.00 " in section and "+33.33 " in section
