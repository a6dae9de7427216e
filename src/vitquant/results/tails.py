"""results/tails.json: many passes of the recommended recipe in a row, for percentiles that few passes do not show."""

from typing import Annotated

from pydantic import Field, PositiveFloat, model_validator

from vitquant.results.environment import Conditions, Environment
from vitquant.results.form import Form, ResultFile, Sha256


class Timed(Form):
    """The passes, at batch 1."""

    recipe: str
    artifact_sha256: Sha256
    environment: Environment
    conditions: Conditions
    latency_ms: Annotated[list[PositiveFloat], Field(min_length=100)]
    """Milliseconds of each pass, in order."""


class Tails(ResultFile):
    """The file."""

    timed: Timed | None = None
    unavailable: str | None = None
    """Why there are none."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "Tails":
        if (self.timed is None) == (self.unavailable is None):
            raise ValueError("either passes or why there are none must be there")
        return self
