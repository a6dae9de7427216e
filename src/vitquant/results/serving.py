"""results/serving/serving.json, and a file beside it for each GPU: what the server does under load, counted and timed.

Values of the same round in two lists are the same on the clock. All requests are of one image.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vitquant.results.environment import Conditions, Environment
from vitquant.results.form import Form, ResultFile, Sha256

FILE = "serving.json"
OK = "200"
REFUSED = "503"
Counts = dict[str, NonNegativeInt]
Device = Literal["cpu", "cuda"]
Sent = Literal["files", "pixels"]
"""What a request holds: an image file, JPEG, or decoded pixels."""
Rounds = Annotated[list[PositiveFloat], Field(min_length=2)]


class Server(Form):
    """A server with one artifact."""

    recipe: str
    workers: PositiveInt
    threads: PositiveInt
    """Of a worker."""
    max_batch: PositiveInt


class Throughput(Form):
    """A closed loop that the server cannot keep up with, round by round."""

    server: Server
    sent: Sent = "files"
    clients: PositiveInt
    images_per_s: Rounds
    """Answered in each round."""
    outcomes: Counts
    """How many requests had which status, `timeout` or `connection`."""


class Arrivals(Form):
    """One round of an open loop."""

    seconds: PositiveFloat
    at_s: list[NonNegativeFloat]
    """Of the requests that were answered: when each was to be sent, in seconds from the start."""
    latency_ms: list[NonNegativeFloat]
    """From then to the end of its answer."""
    outcomes: Counts
    """As in `Throughput`, of all requests."""
    recipes: Counts
    """How many each recipe answered."""

    @model_validator(mode="after")
    def _of_the_answered(self) -> "Arrivals":
        if not len(self.at_s) == len(self.latency_ms) == self.outcomes.get(OK, 0):
            raise ValueError("at_s and latency_ms are not those of the requests that were answered")
        return self


class Rate(Form):
    """Requests at random times, a Poisson process, to the server of one worker and batch limit 1."""

    recipe: str
    sent: Sent = "files"
    share: PositiveFloat
    """Of that server's throughput, of the same kind of request."""
    rate: PositiveFloat
    """Requests a second."""
    rounds: Annotated[list[Arrivals], Field(min_length=1)]


class Paths(Form):
    """The same images by four ways to the same artifact, in images a second of each round."""

    predict: Rounds
    """Image files, as `vitquant predict` takes them: a thread for each core; on a GPU in batches."""
    files: Rounds
    """Image files over HTTP, to a server of as many workers, of a thread each; on a GPU of one worker."""
    bare: Rounds
    """Pixels, one image after the other, in the process that asks."""
    pixels: Rounds
    """Pixels over HTTP, to a server of one worker of as many threads."""
    bare_split: Rounds | None = None
    """As `bare`, by a thread for each core, which computes alone; none on a GPU."""
    pixels_split: Rounds | None = None
    """As `pixels`, to a server of as many workers, of a thread each; none on a GPU."""
    cpu_ms: dict[str, NonNegativeFloat] = {}
    """Of `pixels`: processor time for a request, in milliseconds, by the server's processes: web, decoder, worker."""
    bare_ms: Annotated[list[Rounds], Field(min_length=2)]
    """Of `bare`: milliseconds of each pass, round by round."""


class Kills(Form):
    """SIGKILL to the worker, again and again, under load."""

    fallback: str
    """The recipe that answers meanwhile."""
    every: PositiveFloat
    """Seconds from one to the next."""
    outcomes: Counts
    """Of all requests, as in `Throughput`."""
    recipes: Counts
    counted: NonNegativeInt
    """Images that the server has answered, by its own count."""
    again_s: Annotated[list[PositiveFloat], Field(min_length=1)]
    """Of each kill: seconds until a request sent after it has been answered."""
    own_s: Annotated[list[PositiveFloat], Field(min_length=1)]
    """Likewise, by the recipe whose worker it was."""


class Soak(Form):
    """Many requests to one server, with an artifact of `architecture`, so small that there is time for many."""

    architecture: str
    method: str
    requests: Annotated[list[NonNegativeInt], Field(min_length=2)]
    """Answered so far, at each look; the first is after a second of them."""
    resident_bytes: Annotated[list[PositiveInt], Field(min_length=2)]
    """Of all its processes, at each look."""
    outcomes: Counts
    seconds: PositiveFloat

    @model_validator(mode="after")
    def _a_look_each(self) -> "Soak":
        if len(self.requests) != len(self.resident_bytes):
            raise ValueError("requests and resident_bytes are of different numbers of looks")
        return self


class Serving(ResultFile):
    """The file."""

    date: str
    environment: Environment
    conditions: Conditions
    """Of it all; what others had includes the study's own workers, once they have ended."""
    disturbed: dict[str, NonNegativeFloat] = {}
    """By a part of the study: the cores' time that others had, in percent, where that was too much twice."""
    brief: bool = False
    """A trial of the code: too short to say anything."""
    device: Device = "cpu"
    """That all recipes run on."""
    architecture: str = ""
    """timm's, of the artifacts."""
    artifacts: Annotated[dict[str, Sha256], Field(min_length=1)]
    """By recipe, the first of them the one that `paths`, `kills` and `starts_s` are of."""
    unavailable: dict[str, str] = {}
    """By a recipe that was not served: why."""
    starts_s: Annotated[list[PositiveFloat], Field(min_length=1)]
    """Seconds from the server's start until it is ready."""
    throughput: Annotated[list[Throughput], Field(min_length=1)]
    rates: Annotated[list[Rate], Field(min_length=1)]
    paths: Paths
    kills: Kills
    soak: Soak | None = None
    """None where it was not measured: it has nothing to do with a GPU."""

    @property
    def subject(self) -> str:
        """The first recipe."""
        return next(iter(self.artifacts))

    @model_validator(mode="after")
    def _of_its_recipes(self) -> "Serving":
        named = {each.server.recipe for each in self.throughput} | {each.recipe for each in self.rates}
        if not named <= self.artifacts.keys():
            raise ValueError(f"artifacts has no {sorted(named - self.artifacts.keys())[0]}, which was measured")
        return self
