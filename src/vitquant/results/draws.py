"""results/draws/draws.json: top-1 of some recipes and of FP32 where something else had been drawn.

What is drawn is the calibration images (`calibration.seed`), the held-out part that chooses the probe's regularisation
(`probe.seed`), and the split into train and validation images (`data.seed`). One seed changes at a time.
"""

import hashlib
import json
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from vitquant.params import Params
from vitquant.results.facts import Facts
from vitquant.results.form import Form, ResultFile, Sha256

Kind = Literal["calibration", "probe", "split"]
FILE = "draws.json"


class Row(Form):
    """One recipe with one seed, against FP32 with the same seed."""

    kind: Kind
    seed: NonNegativeInt
    recipe: str
    images: PositiveInt
    """Validation images."""
    hits: NonNegativeInt
    """Images whose class the recipe predicts."""
    fp32_hits: NonNegativeInt
    gained: NonNegativeInt
    """Images that the recipe alone has right."""
    lost: NonNegativeInt
    """Images that FP32 alone has right."""
    as_studied: NonNegativeInt | None = None
    """With the study's own seed: images with the class that the study itself predicted for them."""
    inputs: Sha256
    """What `inputs` gave: the study's own recipe that these draws belong to."""
    commit: str
    """Of the code."""

    @model_validator(mode="after")
    def _possible(self) -> "Row":
        both = self.hits - self.gained
        if both < 0 or both != self.fp32_hits - self.lost or both + self.gained + self.lost > self.images:
            raise ValueError(
                f"{self.hits} and {self.fp32_hits} hits of {self.images} images, {self.gained} gained and "
                f"{self.lost} lost, do not go together"
            )
        return self


class Draws(ResultFile):
    """The file."""

    study: Facts
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    """By a recipe or kind of draw that there is nothing of, why."""

    @model_validator(mode="after")
    def _once(self) -> "Draws":
        seen: set[tuple[Kind, int, str]] = set()
        for row in self.rows:
            key = row.kind, row.seed, row.recipe
            if key in seen:
                raise ValueError(f"{row.recipe} has {row.kind} seed {row.seed} twice")
            seen.add(key)
        return self


def inputs(params: Params, recipe: str, logits: str, fp32_logits: str) -> str:
    """SHA-256 of all that a recipe's draws are made of: other parameters, data, weights or artifacts give another.

    Args:
        logits, fp32_logits: SHA-256 of the recipe's and of FP32's logits, with the study's own seeds.
    """
    sections = [params.data, params.probe, params.calibration, params.recipes[recipe]]
    dumped = [section.model_dump(mode="json", exclude_none=True) for section in sections]
    content = [recipe, params.head, logits, fp32_logits, *dumped]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
