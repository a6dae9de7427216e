"""results/profile.json: where the time of a pass goes."""

from pydantic import NonNegativeFloat, PositiveInt

from vitquant.results.environment import Environment
from vitquant.results.form import ResultFile

Times = dict[str, NonNegativeFloat]
"""Kind of operation or kernel to milliseconds per image."""


class Profile(ResultFile):
    """The file."""

    environment: Environment
    batch: PositiveInt
    recipes: dict[str, Times]
