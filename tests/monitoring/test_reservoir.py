"""The sample of served images: each is in it with the same probability, a new start goes on, and all may be deleted."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vitquant.errors import VitquantError
from vitquant.monitoring import reservoir
from vitquant.monitoring.reservoir import Reservoir

SIDE = 8


def image(number: int) -> np.ndarray:
    """Whose first pixel is its number."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[0, 0] = number // 256, number % 256, 0
    return pixels


def numbers(folder: Path) -> list[int]:
    return [int(each[0, 0, 0]) * 256 + int(each[0, 0, 1]) for each in reservoir.read(folder)]


def add(sample: Reservoir, first: int, last: int) -> None:
    for number in range(first, last):
        if (place := sample.draw()) is not None:
            sample.put(place, image(number))


def test_each_image_is_drawn_as_often(tmp_path: Path) -> None:
    """Which images 2,000 samples of 5 of 40 hold; nothing is written."""
    held = np.zeros(40)
    for seed in range(2000):
        sample, places = Reservoir(tmp_path, 5, SIDE, seed), {}
        for number in range(40):
            if (place := sample.draw()) is not None:
                places[place] = number
        sample.close()
        held[list(places.values())] += 1
    assert held.sum() == 2000 * 5
    assert stats.chisquare(held).pvalue > 1e-3


def test_a_new_start_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    sample = Reservoir(folder, 16, SIDE)
    with pytest.raises(VitquantError, match="is kept by a server that runs"):
        Reservoir(folder, 16, SIDE)
    add(sample, 0, 10)
    assert numbers(folder) == list(range(10))
    sample.close()
    sample = Reservoir(folder, 16, SIDE)
    assert sample.seen == 10
    add(sample, 10, 400)
    sample.close()
    found = numbers(folder)
    assert len(set(found)) == 16
    assert max(found) > 100  # which all but one of 10^9 samples have
    assert Reservoir(folder, 16, SIDE).seen == 400
    assert {file.stat().st_mode & 0o777 for file in folder.glob("*.png")} == {0o600}


def test_what_is_deleted_is_gone_and_a_new_sample_begins(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    sample = Reservoir(folder, 4, SIDE)
    add(sample, 0, 4)
    (folder / "000002.png").unlink()
    assert numbers(folder) == [0, 1, 3]
    shutil.rmtree(folder)
    sample.put(3, image(7))
    add(sample, 8, 10)
    assert (numbers(folder), sample.seen) == ([7, 8, 9], 3)


def test_a_sample_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with pytest.raises(VitquantError, match="has no sample of images"):
        reservoir.read(folder)
    sample = Reservoir(folder, 4, SIDE)
    add(sample, 0, 2)
    sample.close()
    for keep, side in ((5, SIDE), (4, SIDE + 1)):
        with pytest.raises(VitquantError, match="is a sample of 4 images of 8 pixels"):
            Reservoir(folder, keep, side)
    (folder / "000001.png").write_bytes(b"none")
    with pytest.raises(VitquantError, match=r"000001.png is no image of 8 × 8 pixels .*: delete it"):
        reservoir.read(folder)
    (folder / reservoir.SPEC_FILE).write_text('{"keep": 4}')
    with pytest.raises(VitquantError, match=r"reservoir.json: side: missing; seen: missing: delete it"):
        Reservoir(folder, 4, SIDE)
    (folder / reservoir.SPEC_FILE).unlink()
    with pytest.raises(VitquantError, match="is there without reservoir.json"):
        Reservoir(folder, 4, SIDE)
