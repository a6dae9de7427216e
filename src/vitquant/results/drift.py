"""results/drift/drift.json: which classes recipes give images as another light, lens or camera would give them."""

from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from vitquant.params import BASELINE
from vitquant.results.environment import Environment
from vitquant.results.form import Form, ResultFile, Sha256

Kind = Literal["clean", "brightness", "contrast", "blur", "noise", "jpeg", "colour", "resolution"]
CLEAN: Kind = "clean"
KINDS: tuple[Kind, ...] = get_args(Kind)[1:]
STRENGTHS: dict[Kind, tuple[float, float, float]] = {
    "brightness": (1.2, 1.5, 2.0),
    "contrast": (0.6, 0.4, 0.2),
    "blur": (1.0, 2.0, 4.0),
    "noise": (0.05, 0.1, 0.2),
    "jpeg": (40, 15, 5),
    "colour": (0.1, 0.25, 0.5),
    "resolution": (2, 4, 8),
}
"""From the mildest to the strongest; vitquant.measure.drifted says of what."""
FILE = "drift.json"
Share = Annotated[float, Field(ge=0, le=1)]
Classes = Annotated[str, Field(pattern=r"^\d{1,6}( \d{1,6})*$")]
"""Of every image, in the order of the labels: indices, with spaces between."""


class Inputs(Form):
    """One look of the test whether inputs changed, at the first images."""

    images: PositiveInt
    discrepancy: float
    """The maximum mean discrepancy of FP32's embeddings, squared."""
    discrepancy_p: Share
    confidence_p: Share
    changed: bool


class Row(Form):
    """The images with one drift."""

    kind: Kind
    strength: NonNegativeFloat
    """0 of images as they are."""
    predicted: dict[str, Classes]
    """By recipe, FP32's too."""
    inputs: Inputs | None = None
    """None where there are too few images, or no reference."""


class Recalibrated(Form):
    """A recipe made anew, by calibration images with the same drift."""

    kind: Kind
    strength: NonNegativeFloat
    recipe: str
    predicted: Classes


class Drifts(ResultFile):
    """The file."""

    labels: Annotated[list[NonNegativeInt], Field(min_length=1)]
    """Of the validation images, in the random order in which a stream gives them."""
    inputs: Sha256
    """What `results.outliers.inputs` gives: the study that this belongs to."""
    artifacts: dict[str, Sha256]
    """That predicted, by recipe."""
    environment: Environment
    rows: list[Row] = []
    recalibrated: list[Recalibrated] = []
    uncalibrated: list[str] = []
    """Recipes that other calibration images leave as they are."""
    left_out: dict[str, str] = {}
    """By the recipe that there is nothing of, why."""

    @model_validator(mode="after")
    def _belong_together(self) -> "Drifts":
        keys = [(row.kind, row.strength) for row in self.rows]
        if len(set(keys)) < len(keys) or (keys and keys[0] != (CLEAN, 0)):
            raise ValueError("its first row must be of images as they are, and no drift may be there twice")
        if any(row.predicted.keys() != self.artifacts.keys() or BASELINE not in row.predicted for row in self.rows):
            raise ValueError(f"every row must have the recipes of artifacts, and {BASELINE}")
        again = [(each.kind, each.strength, each.recipe) for each in self.recalibrated]
        known = {(*key, name) for key in keys for name in self.artifacts}
        if len(set(again)) < len(again) or not set(again) <= known:
            raise ValueError("what is recalibrated must be there once, and before recalibration")
        texts = [text for row in self.rows for text in row.predicted.values()]
        for text in (*texts, *(each.predicted for each in self.recalibrated)):
            if text.count(" ") + 1 != len(self.labels):
                raise ValueError(f"a recipe predicts {text.count(' ') + 1} images of {len(self.labels)}")
        return self


def encoded(classes: NDArray[np.int64]) -> str:
    """Indices of classes, (N,), as the file has them."""
    return " ".join(map(str, classes.tolist()))


def decoded(text: str) -> NDArray[np.int64]:
    """The indices again, (N,)."""
    return np.array(text.split(), np.int64)
