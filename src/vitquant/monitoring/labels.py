"""Accuracy now, from labels of some of the images that were sampled."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitquant.analysis import statistics
from vitquant.analysis.findings import Estimate
from vitquant.errors import VitquantError, printable
from vitquant.monitoring.records import Image

NORMAL = 1.959964  # for 95 %
FEWEST = 10  # labelled images of each kind from which on a normal interval is trusted


@dataclass(frozen=True)
class Accuracy:
    """Top-1 over the sampled images of one artifact, and how it differs from FP32's over the same ones."""

    labelled: int
    images: int
    served: Estimate
    """Percent."""
    fp32: Estimate
    difference: Estimate
    """Percentage points."""


def read(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """A file's labels, indices of classes, by the ids of images.

    Raises:
        VitquantError: it is not a CSV file of the columns id and label, or a label is no class.
    """
    numbers = {name: index for index, name in enumerate(classes)}
    found: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise VitquantError(f"{path} is no CSV file ({error}): give columns id,label") from None
    for number, row in enumerate(rows, start=2):
        name, label = row.get("id"), row.get("label")
        if name is None or label is None:
            raise VitquantError(f"{path}, row {number}: it has no id or no label: give columns id,label")
        if label not in numbers:
            raise VitquantError(f"{path}, row {number}: {printable(label)!r} is none of the classes of the log")
        if found.setdefault(name, numbers[label]) != numbers[label]:
            raise VitquantError(f"{path}, row {number}: {printable(name)!r} has another label above: leave one")
    return found


def accuracy(images: Sequence[Image], labels: dict[str, int]) -> Accuracy | None:
    """Of one artifact's images, some of which are labelled: a random part of them, or all. None without any labels."""
    known = np.array([image.id in labels for image in images])
    if not known.any():
        return None
    truth = np.array([labels.get(image.id, -1) for image in images])
    served, fp32 = (np.array([getattr(image, name) for image in images]) for name in ("served", "fp32"))
    proxies = {
        name: np.array([getattr(image, name) for image in images])
        for name in ("served_confidence", "fp32_confidence", "fp32_of_served")
    }
    right, baseline = served[known] == truth[known], fp32[known] == truth[known]
    gain = right.astype(float) - baseline
    expected = proxies["fp32_of_served"] - proxies["fp32_confidence"]  # 0 where both say the same
    difference = statistics.paired_difference(right, baseline)
    if (~known).sum() >= FEWEST and np.count_nonzero(gain) >= FEWEST:
        difference = Estimate(**_scaled(powered(gain, expected[known], expected[~known])), unit="pp")
    return Accuracy(
        labelled=int(known.sum()),
        images=len(images),
        served=_share(right, proxies["served_confidence"], known),
        fp32=_share(baseline, proxies["fp32_confidence"], known),
        difference=difference,
    )


def powered(
    values: NDArray[np.float64], predicted: NDArray[np.float64], others: NDArray[np.float64]
) -> tuple[float, float, float]:
    """The mean of what is known of few, by predictions for many, with a normal interval: value, low and high.

    Prediction-powered inference (Angelopoulos, Bates et al. 2023), the predictions' weight chosen so that the interval
    is shortest (Angelopoulos, Duchi & Zrnic 2023): bad predictions do no harm.

    Args:
        values: of the labelled images, (n,).
        predicted: what was predicted for those, (n,).
        others: what was predicted for images without a label, (N,).
    """
    few, many = len(values), len(others)
    spread = np.var(np.concatenate([predicted, others]))
    weight = 0.0
    if spread > 0:
        weight = float(np.clip(np.cov(values, predicted)[0, 1] / ((1 + few / many) * spread), 0, 1))
    rest = values - weight * predicted
    value = weight * float(others.mean()) + float(rest.mean())
    reach = NORMAL * float(np.sqrt(weight**2 * np.var(others, ddof=1) / many + np.var(rest, ddof=1) / few))
    return value, value - reach, value + reach


def _share(right: NDArray[np.bool_], confidence: NDArray[np.float64], known: NDArray[np.bool_]) -> Estimate:
    """The share of right answers: of few labelled, or all, with Wilson's interval, else prediction-powered."""
    wrong = len(right) - int(right.sum())
    if (~known).sum() < FEWEST or min(wrong, len(right) - wrong) < FEWEST:
        return statistics.proportion(right)
    found = powered(right.astype(float), confidence[known], confidence[~known])
    return Estimate(**{key: min(100.0, max(0.0, value)) for key, value in _scaled(found).items()}, unit="%")


def _scaled(found: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), (100 * each for each in found), strict=True))
