"""What the server is told: its limits, and how it batches."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """All of them; the defaults are those of the command line."""

    queue: int = 32
    """Images that may wait, for decoding or for a worker: one more request is refused."""
    deadline: float = 10.0
    """Seconds from a request's headers to its answer."""
    workers: int = 1
    """Processes that hold the first artifact. A fallback has one, with the threads of all of them."""
    threads: int = 1
    """Of a worker."""
    max_batch: int = 1
    """Images that a worker is given at once."""
    max_delay: float = 0.0
    """Seconds that a free worker waits for a batch to fill."""
    body_bytes: int = 16 << 20
    """Of a request's body, at most."""
    megapixels: float = 40.0
    """Of an image, at most."""
    images: int = 32
    """In a request, at most."""
    body_seconds: float = 10.0
    """From a request's headers to its body's end."""
    decode_seconds: float = 5.0
    """To decode a request's images."""
    grace: float = 20.0
    """Seconds to answer what there is, once told to end."""
    decoders: int = 2
    """Processes that decode."""
    failures: int = 3
    """Of a recipe in a row, after which it is left."""
    open_seconds: float = 10.0
    """For so long; then one image probes it."""
    probation: float = 600.0
    """Seconds in which a new artifact may raise the alarm, and the one before it answers again."""

    @property
    def held_bytes(self) -> int:
        """Of bodies that are being received or decoded, altogether."""
        return 4 * self.body_bytes


@dataclass(frozen=True)
class Keeping:
    """How a sample of the served images is kept."""

    folder: Path
    keep: int
    """Images at most."""


@dataclass(frozen=True)
class Shadowing:
    """How a sample of the served images is compared with FP32."""

    share: float
    """Of the images."""
    log: Path
    fp32: Path
    bound: float | None = None
    """The share of images that the first artifact may give another class; None for that in `bounds`."""
    bounds: dict[str, float] = field(default_factory=dict)
    """Likewise, by recipe, for those that the study has."""
    images: int = 0
    """That are kept at most, of those that differ."""
    waiting: int = 32
    """Images that may wait to be compared; what comes then is skipped."""
