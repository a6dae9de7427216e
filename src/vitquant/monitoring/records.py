"""The log's lines. Each is JSON, and says of which version its form is."""

import base64
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from vitquant.monitoring.sequential import Watch
from vitquant.results.form import Form

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Line(Form):
    """What all of them have."""

    version: Literal[1] = 1
    seq: Count = 0
    """The line's number: the order that counts, since clocks can jump."""
    time: Annotated[float, Field(ge=0, le=1e11)] = 0.0
    """Seconds since 1970, by the server's clock."""


class Watched(Watch):
    """An artifact of the server's, and what had been seen of it before this line."""

    recipe: str
    sha256: str


class Head(Line):
    """The first line of a file: it makes the file whole by itself."""

    kind: Literal["head"] = "head"
    sampled: Share
    """Of the images that are served."""
    classes: list[str]
    fp32: str
    """The path of the artifact that images are compared by."""
    fp32_sha256: str
    watched: list[Watched]


class Image(Line):
    """A served image that FP32 has seen too."""

    kind: Literal["image"] = "image"
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}(-[0-9]{1,4})?$")]
    """That its answer has."""
    sha256: str
    """Of the artifact that answered."""
    served: Count
    """The class that was answered, an index."""
    fp32: Count
    """FP32's."""
    served_confidence: Share
    """The answer's probability of its class."""
    fp32_confidence: Share
    fp32_of_served: Share
    """FP32's probability of the class that was answered."""
    total_variation: Share
    """Between the two distributions."""
    cosine: Annotated[float, Field(ge=-1.001, le=1.001)]
    """Of the logits."""
    embedding: str
    """FP32's, float16, little-endian, in base64."""
    outside: Share | None = None
    """Of the values that enter quantized linear layers, by FP32, those outside of the ranges that calibration fixed."""
    alarm: bool = False
    """Whether it raised the alarm."""
    skipped: Count = 0
    """Images that should have been compared and were not, since the server started."""
    lost: Count = 0
    """Lines that could not be written before this one, since the server started."""

    @property
    def differs(self) -> bool:
        """Whether FP32 gives another class."""
        return self.served != self.fp32


PARSED: TypeAdapter[Head | Image] = TypeAdapter(Annotated[Head | Image, Field(discriminator="kind")])


def packed(embedding: NDArray[np.float32]) -> str:
    """An embedding, float32 (D,), as lines have it; what float16 cannot hold becomes its largest number."""
    most = np.finfo(np.float16).max
    return base64.b64encode(embedding.clip(-most, most).astype("<f2").tobytes()).decode()


def unpacked(text: str) -> NDArray[np.float32]:
    """The embedding again, float32 (D,)."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32)
