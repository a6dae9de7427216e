"""results/details.json: where a quantized recipe differs from FP32, class by class and image by image."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from vitquant.data.prepared import Prepared
from vitquant.measure import statistics
from vitquant.params import BASELINE, Report

IMAGES = 12  # of the contact sheet
Logits = NDArray[np.float32]


def details(logits: Mapping[str, Logits], prepared: Prepared, recipes: list[str], params: Report) -> dict[str, Any]:
    """The content of details.json.

    Args:
        logits: of each recipe over the validation split, (N, C); empty where there is no accuracy.
        recipes: those to look into; the first one's images are compared with FP32's.
    """
    measured = [name for name in recipes if logits[name].size and logits[BASELINE].size]
    labels = prepared.labels("val")
    return {
        "per_class": {
            name: _per_class(logits[name], logits[BASELINE], labels, prepared.classes, params) for name in measured
        },
        "disagreement": {
            name: _disagreement(logits[name], logits[BASELINE], labels, prepared) for name in measured[:1]
        },
    }


def _per_class(
    ours: Logits, baseline: Logits, labels: NDArray[np.int64], classes: list[str], params: Report
) -> list[dict[str, Any]]:
    """Each class that has validation images: top-1 of both, their difference and its interval; the worst first."""
    right, before = statistics.hits(ours, labels, 1), statistics.hits(baseline, labels, 1)
    rows = []
    for index, name in enumerate(classes):
        rows_of = labels == index
        if not rows_of.any():
            continue
        delta = statistics.paired_difference(right[rows_of], before[rows_of], params.resamples, params.seed)
        rows.append(
            {
                "class": name,
                "images": int(rows_of.sum()),
                "fp32_top1_pct": round(100 * float(before[rows_of].mean()), 2),
                "top1_pct": round(100 * float(right[rows_of].mean()), 2),
                "top1_delta_pp": round(delta.value, 2),
                "top1_delta_ci95_pp": [round(delta.low, 2), round(delta.high, 2)],
            }
        )
    return sorted(rows, key=lambda row: row["top1_delta_pp"])


def _disagreement(
    ours: Logits, baseline: Logits, labels: NDArray[np.int64], prepared: Prepared
) -> list[dict[str, Any]]:
    """The images whose class probabilities moved most: by total variation, half the sum of absolute differences."""
    p, q = softmax(ours.astype(np.float64), axis=1), softmax(baseline.astype(np.float64), axis=1)
    distance = 0.5 * np.abs(p - q).sum(axis=1)
    names = _names(prepared.path)
    return [
        {
            "row": int(row),
            "image": names[row],
            "class": prepared.classes[labels[row]],
            "fp32": prepared.classes[int(q[row].argmax())],
            "fp32_probability": round(float(q[row].max()), 3),
            "recipe": prepared.classes[int(p[row].argmax())],
            "recipe_probability": round(float(p[row].max()), 3),
            "distance": round(float(distance[row]), 3),
        }
        for row in np.argsort(-distance, kind="stable")[:IMAGES]
    ]


def _names(prepared: Path) -> list[str]:
    """Where each validation image came from, in the split's order."""
    with (prepared / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file) if row["split"] == "val"]
