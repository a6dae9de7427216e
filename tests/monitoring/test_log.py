"""The log on a real disk, whole, cut, full, and in the hands of two servers."""

import os
import re
import resource
from pathlib import Path

import pytest

from vitquant.errors import VitquantError
from vitquant.monitoring import log, story
from vitquant.monitoring.log import Log
from vitquant.monitoring.records import Head, Image, Watched

SHA256 = "0" * 64


def head(watched: Watched) -> Head:
    return Head(sampled=0.5, classes=["a", "b"], fp32="fp32", fp32_sha256=SHA256, watched=[watched.model_copy()])


def image(number: int) -> Image:
    """Every tenth differs."""
    return Image(
        id=f"{number:032x}", sha256=SHA256, served=0, fp32=int(number % 10 == 0), served_confidence=0.9,
        fp32_confidence=0.9, fp32_of_served=0.9, total_variation=0.1, cosine=1.0, embedding="",
    )  # fmt: skip


def fill(writer: Log, watched: Watched, numbers: range) -> None:
    for number in numbers:
        before = head(watched)
        watched.add(image(number).differs)
        writer.write(before, image(number))


@pytest.fixture
def watched() -> Watched:
    return Watched(bound=0.2, recipe="int8", sha256=SHA256)


def test_files_rotate_and_the_last_ones_still_know_of_all(tmp_path: Path, watched: Watched) -> None:
    writer = Log(tmp_path, most=3000, kept=3)
    fill(writer, watched, range(1, 101))
    writer.close()
    kept = sorted(tmp_path.glob("*.jsonl"))
    assert len(kept) == 3
    assert all(file.stat().st_size <= 3000 for file in kept)
    history = log.read(tmp_path)
    (one,) = story.series(history)
    assert (one.watched.seen, one.watched.differ, one.seen[-1]) == (100, 10, 100)
    assert one.watched == watched
    assert 0 < len(one.images) < 100
    numbers = [line.seq for line in (*history.heads, *history.images)]
    assert len(set(numbers)) == len(numbers)


def test_a_line_that_was_cut_off_is_counted_and_never_added_to(tmp_path: Path, watched: Watched) -> None:
    writer = Log(tmp_path)
    fill(writer, watched, range(1, 11))
    writer.close()
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    again = Log(tmp_path)
    assert len(again.last.images) == 9
    fill(again, watched, range(11, 13))
    again.close()
    history = log.read(tmp_path)
    assert (history.broken, len(history.images), history.images[-1].seq) == (1, 11, 13)
    assert story.series(history)[0].watched.seen == 12  # the second head knew of the tenth


def test_a_file_that_is_deleted_is_followed_by_another(tmp_path: Path, watched: Watched) -> None:
    """What goes to a file that has no name is lost, and nobody would hear of it."""
    writer = Log(tmp_path / "log")
    fill(writer, watched, range(1, 4))
    next((tmp_path / "log").iterdir()).unlink()
    fill(writer, watched, range(4, 6))
    (one,) = story.series(log.read(tmp_path / "log"))
    assert (one.watched.seen, len(one.images), writer.lost) == (5, 2, 0)
    (tmp_path / "log").rename(tmp_path / "another")
    next((tmp_path / "another").iterdir()).unlink()
    fill(writer, watched, range(6, 8))
    assert writer.lost == 2
    writer.close()


def test_another_bound_is_another_test(tmp_path: Path, watched: Watched) -> None:
    writer = Log(tmp_path)
    fill(writer, watched, range(1, 6))
    writer.close()
    writer = Log(tmp_path)
    fill(writer, watched.model_copy(update={"bound": 0.3, "seen": 0, "differ": 0}), range(6, 9))
    writer.close()
    first, second = story.series(log.read(tmp_path))
    assert (first.watched.bound, first.seen, second.watched.bound, second.seen) == (0.2, [*range(1, 6)], 0.3, [1, 2, 3])


def test_a_clock_that_jumps_changes_no_order(tmp_path: Path, watched: Watched) -> None:
    writer = Log(tmp_path)
    fill(writer, watched, range(1, 6))
    writer.close()
    (file,) = tmp_path.glob("*.jsonl")
    lines = file.read_text().splitlines()
    lines[3] = re.sub('"time":[0-9.]+', '"time":1.0', lines[3])
    file.write_text("\n".join(reversed(lines)) + "\n")
    history = log.read(tmp_path)
    assert [each.id for each in history.images] == [image(number).id for number in range(1, 6)]
    assert history.set_back == 1


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_loses_lines_whole_and_counts_them(tmp_path: Path, watched: Watched, room: int) -> None:
    """A limit on files' sizes stands for the disk: what is written beyond it fails, or is written in part."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = Log(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        fill(writer, watched, range(1, 31))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lost = writer.lost
    assert lost
    fill(writer, watched, range(31, 33))
    writer.close()
    history = log.read(tmp_path)
    assert (history.broken, len(history.images), writer.lost) == (0, 32 - lost, lost)
    assert story.counted([each.lost for each in history.images]) == lost


def test_two_servers_do_not_write_one_log(tmp_path: Path) -> None:
    first = Log(tmp_path)
    with pytest.raises(VitquantError, match="is the log of a server that runs: give --log another folder"):
        Log(tmp_path)
    first.close()
    Log(tmp_path).close()


def test_an_empty_log_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(VitquantError, match="holds no image that was compared: serve some"):
        log.read(tmp_path)
    (tmp_path / "000000000001.jsonl").write_bytes(os.urandom(3000))
    with pytest.raises(VitquantError, match="lines that are none of its"):
        log.read(tmp_path)
    with pytest.raises(VitquantError, match="is missing: name the folder"):
        log.read(tmp_path / "none")


def test_counters_begin_again_with_the_server() -> None:
    assert story.counted([0, 2, 5, 0, 1, 1, 4]) == 9
