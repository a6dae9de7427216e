"""Refusing results that do not belong together: of two machines, or of two versions of an artifact or of the data.

Those that are no results at all are refused too, for they may come from somebody else.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from vitquant.errors import VitquantError
from vitquant.measure import statistics
from vitquant.params import describe

MACHINE = ("host", "cpu", "cores", "torch")  # what must be the same in every result of a run
MEND = "run `dvc repro`"
Interval = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]


class _Facts(BaseModel):
    """What was studied."""

    model_config = ConfigDict(strict=True)

    name: str
    model: str
    data: str
    eval_images: NonNegativeInt
    classes: NonNegativeInt


class _Recipe(BaseModel):
    """A recipe's results: beside these, numbers and their intervals."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, FiniteFloat | Interval] = Field(init=False)

    traits: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    accuracy_device: Literal["cpu", "cuda"] = "cpu"


class _Study(BaseModel):
    """The content of metrics.json, or a study in a GPU's file."""

    model_config = ConfigDict(strict=True)

    study: _Facts
    environment: dict[str, Any]
    recipes: dict[str, _Recipe]
    profile: dict[str, dict[str, FiniteFloat]] = {}


def check_form(study: Any) -> None:
    """Raise VitquantError, which names the key, where a study's results hold what the report cannot print."""
    try:
        _Study.model_validate(study)
    except ValidationError as error:
        raise VitquantError(describe(error, study)) from None


def check_machines(environments: dict[Path, dict[str, Any]]) -> None:
    """Raise VitquantError where two files, by their environments, were measured on different machines."""
    (first, expected), *others = environments.items()
    for file, environment in others:
        for key in MACHINE:
            if key in expected and key in environment and expected[key] != environment[key]:
                raise VitquantError(
                    f"{first} and {file} were measured on different machines "
                    f"({key}: {expected[key]}, {environment[key]}): {MEND}"
                )


def check_artifact(accuracy_file: Path, accuracy: dict[str, Any], benchmark_file: Path, speed: dict[str, Any]) -> None:
    """Raise VitquantError where accuracy and speed, by the digests they carry, are of different artifacts."""
    ours, theirs = accuracy.get("artifact_sha256"), speed.get("artifact_sha256")
    if ours and theirs and ours != theirs:
        raise VitquantError(
            f"{accuracy_file} and {benchmark_file} are of different artifacts of {accuracy.get('recipe')} "
            f"(SHA-256 {ours[:12]}…, {theirs[:12]}…), as two commits make them: {MEND}"
        )


def check_predictions(
    accuracy_file: Path, accuracy: dict[str, Any], predictions_file: Path, logits: NDArray[np.float32],
    labels: NDArray[np.int64], classes: int,
) -> None:  # fmt: skip
    """Raise VitquantError where predictions are of other data than `labels`, or give another accuracy."""
    if logits.shape != (len(labels), classes):
        raise VitquantError(
            f"{predictions_file} holds predictions of shape {logits.shape}, the prepared data has "
            f"{len(labels)} images of {classes} classes: {MEND}"
        )
    top1 = round(statistics.proportion(statistics.hits(logits, labels, 1)).value, 2)
    if accuracy.get("top1_pct", top1) != top1:
        raise VitquantError(
            f"{accuracy_file} says top-1 is {accuracy['top1_pct']} %, {predictions_file} gives {top1} %: "
            f"they are of different runs: {MEND}"
        )
