"""Accuracy by few labels, over made-up images whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from vitquant.analysis import statistics
from vitquant.errors import VitquantError
from vitquant.monitoring import labels
from vitquant.monitoring.records import Image


def images(count: int, differ: float, seed: int = 0) -> tuple[list[Image], dict[str, int]]:
    """Images of two classes, and the truth: each model is right as often as it is sure."""
    rng = np.random.default_rng(seed)
    made, truth = [], {}
    for number in range(count):
        sure = float(rng.uniform(0.5, 1))
        fp32 = int(rng.integers(2))
        served = 1 - fp32 if rng.random() < differ else fp32
        image = Image(
            id=f"{number:032x}",
            sha256="0" * 64,
            served=served,
            fp32=fp32,
            served_confidence=sure,
            fp32_confidence=sure,
            fp32_of_served=sure if served == fp32 else 1 - sure,
            total_variation=0.0,
            cosine=1.0,
            embedding="",
        )
        made.append(image)
        truth[image.id] = fp32 if rng.random() < sure else 1 - fp32
    return made, truth


def test_all_labelled_is_the_studys_own_statistics() -> None:
    made, truth = images(300, 0.1)
    found = labels.accuracy(made, truth)
    assert found
    served = np.array([image.served == truth[image.id] for image in made])
    fp32 = np.array([image.fp32 == truth[image.id] for image in made])
    assert found.served == statistics.proportion(served)
    assert found.difference == statistics.paired_difference(served, fp32)


def test_intervals_by_few_labels_hold_the_truth_and_are_shorter() -> None:
    """Of 800 samples of 600 images, 150 of them labelled: the true accuracy is 0.75, FP32's is by 0.1 higher."""
    held, ratios = np.zeros(2), []
    for seed in range(800):
        made, truth = images(600, 0.2, seed)
        some = {image.id: truth[image.id] for image in made[:150]}
        found = labels.accuracy(made, some)
        assert found
        right = np.array([image.served == truth[image.id] for image in made[:150]])
        alone = statistics.proportion(right)
        held += [found.fp32.low <= 75 <= found.fp32.high, found.difference.low <= -10 <= found.difference.high]
        ratios.append((found.fp32.high - found.fp32.low) / (alone.high - alone.low))
    assert (held >= 0.9 * 800).all(), held
    assert np.mean(ratios) < 0.97


def test_predictions_that_say_nothing_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random(200) < 0.7).astype(float)
    value, low, high = labels.powered(values, rng.random(200), rng.random(5000))
    assert value == pytest.approx(values.mean(), abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.05)


def test_few_that_differ_are_not_taken_for_certainty() -> None:
    made, truth = images(500, 0.0)
    found = labels.accuracy(made, {image.id: truth[image.id] for image in made[:100]})
    assert found
    assert found.difference.value == 0
    assert found.difference.high > 1  # Tango's of 100 images
    assert labels.accuracy(made, {"another": 0}) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,label\nx,a\n", "row 2: it has no id or no label"),
        ("id,label\nx,c\n", "row 2: 'c' is none of the classes"),
        ("id,label\nx,a\nx,b\n", "row 3: 'x' has another label above"),
        ("id,label\nx\n", "row 2: it has no id or no label"),
        (b"id,label\n\xff,a\n", "is no CSV file"),
    ],
)
def test_a_file_that_is_not_right_is_one_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(VitquantError, match=said):
        labels.read(file, ["a", "b"])
