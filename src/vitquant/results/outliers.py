"""results/outliers/outliers.json: how recipes agree with FP32 where activations have outliers, more and more."""

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from vitquant.params import Params
from vitquant.results.environment import Environment
from vitquant.results.form import Form, ResultFile, Sha256

Kind = Literal["channels", "tokens"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE = "outliers.json"


class Row(Form):
    """One recipe on weights with outliers of one kind, against FP32 on the same weights; counts are of images."""

    kind: Kind
    factor: Annotated[float, Field(ge=1)]
    """1 leaves the study's weights as they are."""
    recipe: str
    """The row of `fp32` itself is against FP32 on the study's weights."""
    agreeing: NonNegativeInt
    """Images with the same top-1 class."""
    hits: NonNegativeInt
    """Images whose class the recipe predicts."""
    gained: NonNegativeInt
    """Images that the recipe alone has right."""
    lost: NonNegativeInt
    """Images that FP32 alone has right."""
    moved: NonNegativeFloat
    """The greatest difference of a logit."""


class Outliers(ResultFile):
    """The file."""

    images: PositiveInt
    """Validation images, the same ones in every row."""
    inputs: Sha256
    """What `inputs` gave: the study that this belongs to."""
    environment: Environment
    rows: list[Row]
    left_out: dict[str, str] = {}
    """By the recipe that there is nothing of, why."""

    @model_validator(mode="after")
    def _possible(self) -> "Outliers":
        seen: set[tuple[Kind, float, str]] = set()
        for row in self.rows:
            key = row.kind, row.factor, row.recipe
            if key in seen:
                raise ValueError(f"{row.recipe} has {row.kind} at {row.factor:g} twice")
            seen.add(key)
            if row.gained > row.hits or max(row.agreeing, row.hits + row.lost) > self.images:
                raise ValueError(f"{row.recipe}'s counts of {row.kind} at {row.factor:g} do not go together")
        return self

    @property
    def recipes(self) -> list[str]:
        """Those that there are rows of, in the rows' order."""
        return list(dict.fromkeys(row.recipe for row in self.rows))


def inputs(params: Params, names: Iterable[str]) -> str:
    """SHA-256 of the parameters that the rows of recipes depend on."""
    sections = [params.model, params.data, params.probe, params.calibration, *(params.recipes[name] for name in names)]
    content = [params.head, *(section.model_dump(mode="json") for section in sections)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
