"""results/details.json: where a quantized recipe differs from FP32, class by class and image by image."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from vitquant.analysis import statistics
from vitquant.analysis.findings import Estimate, Finding
from vitquant.analysis.load import Results
from vitquant.params import BASELINE
from vitquant.results.form import ResultFile
from vitquant.results.hits import hits

IMAGES = 12  # of the contact sheet
Logits = NDArray[np.float32]


class ClassRow(Finding):
    """One class that has validation images."""

    name: str
    images: int
    fp32_top1_pct: float
    top1_pct: float
    top1_delta: Estimate


class ImageRow(Finding):
    """One image, and what FP32 and the recipe take it for."""

    row: int
    """In the validation split."""
    image: str
    true_class: str
    fp32: str
    fp32_probability: float
    recipe: str
    recipe_probability: float
    distance: float
    """Total variation of the class probabilities, 0 to 1."""


class Details(ResultFile):
    """The file: by recipe."""

    per_class: dict[str, list[ClassRow]] = {}
    """The worst first."""
    disagreement: dict[str, list[ImageRow]] = {}
    """The images that moved most."""


def details(results: Results, recipes: Sequence[str]) -> Details:
    """Look into some recipes.

    Args:
        recipes: their names; the first one's images are compared with FP32's.
    """
    baseline = results.evidence[BASELINE].logits
    if baseline is None:
        return Details()
    logits = {name: found for name in recipes if (found := results.evidence[name].logits) is not None}
    return Details(
        per_class={name: _per_class(ours, baseline, results) for name, ours in logits.items()},
        disagreement={name: _disagreement(ours, baseline, results) for name, ours in list(logits.items())[:1]},
    )


def _per_class(ours: Logits, baseline: Logits, results: Results) -> list[ClassRow]:
    labels = results.prepared.labels("val")
    right, before = hits(ours, labels, 1), hits(baseline, labels, 1)
    rows = []
    for index, name in enumerate(results.prepared.classes):
        of_class = labels == index
        if not of_class.any():
            continue
        delta = statistics.paired_difference(right[of_class], before[of_class])
        rows.append(
            ClassRow(
                name=name,
                images=int(of_class.sum()),
                fp32_top1_pct=round(100 * float(before[of_class].mean()), 2),
                top1_pct=round(100 * float(right[of_class].mean()), 2),
                top1_delta=delta.rounded(2),
            )
        )
    return sorted(rows, key=lambda row: row.top1_delta.value)


def _disagreement(ours: Logits, baseline: Logits, results: Results) -> list[ImageRow]:
    """By total variation: half the sum of the absolute differences of the class probabilities."""
    p, q = softmax(ours.astype(np.float64), axis=1), softmax(baseline.astype(np.float64), axis=1)
    distance = 0.5 * np.abs(p - q).sum(axis=1)
    names, classes, labels = _names(results.prepared.path), results.prepared.classes, results.prepared.labels("val")
    return [
        ImageRow(
            row=int(row),
            image=names[row],
            true_class=classes[labels[row]],
            fp32=classes[int(q[row].argmax())],
            fp32_probability=round(float(q[row].max()), 3),
            recipe=classes[int(p[row].argmax())],
            recipe_probability=round(float(p[row].max()), 3),
            distance=round(float(distance[row]), 3),
        )
        for row in np.argsort(-distance, kind="stable")[:IMAGES]
    ]


def _names(prepared: Path) -> list[str]:
    """Where each validation image came from, in the split's order."""
    with (prepared / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file) if row["split"] == "val"]
