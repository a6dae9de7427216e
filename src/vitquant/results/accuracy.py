"""results/accuracy/<recipe>.json: where and from what a recipe's predictions were made.

They lie in results/predictions/<recipe>.npz: `logits`, float32 (N, C), and `class_tokens`, float32 (N, D), the
embeddings, of most ViTs the class token after the last norm, of the validation images in the split's order; nothing
where there are none. A recipe whose images affect each other within a batch has `logits_large_batch` too, like
`logits`, of a part of the images predicted in large batches. A recipe whose logits are FP32's but for rounding has all
this of another part alone. With `head: features` logits are the logarithms of the shares of the neighbours'
votes, and `nearest`, int64 (N,), is the nearest neighbour, a row of the train split.
"""

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from vitquant.results.environment import Machine
from vitquant.results.form import Form, ResultFile, Sha256
from vitquant.traits import Traits

ROUNDING = 1e-3  # of a logit: FP32 engines' differ by 1e-5 to 1e-4, BF16's by 1e-2 and more
LARGE_BATCH, AS_FP32 = 3, 6  # of how many images of a class one is in the part that is predicted, for `Prepared.part`


class LargeBatch(Form):
    """A part of the images, one of LARGE_BATCH, predicted once more in large batches."""

    size: PositiveInt
    """Images in a batch; the last may have fewer."""
    logits_sha256: Sha256
    """Of `logits_large_batch`."""


class Predicted(Form):
    """Predictions over the validation split."""

    device: Literal["cpu", "cuda"]
    images: NonNegativeInt
    as_fp32: bool = False
    """Whether these are of one of AS_FP32 alone, since logits of calibration images were within ROUNDING of FP32's."""
    logits_sha256: Sha256
    """Of the float32 logits (N, C) in C order."""
    artifact_sha256: Sha256
    environment: Machine
    large_batch: LargeBatch | None = None
    """None of a recipe whose images do not affect each other."""

    @property
    def one_of(self) -> int:
        """What `Prepared.part` takes to give the part."""
        return AS_FP32 if self.as_fp32 else LARGE_BATCH


class Accuracy(ResultFile):
    """The file."""

    recipe: str
    traits: Traits
    predicted: Predicted | None = None
    unavailable: str | None = None
    """Why nothing was predicted."""
    details: dict[str, Any] = {}
    """What building the artifact found out."""

    @model_validator(mode="after")
    def _large_batch_where_it_matters(self) -> "Accuracy":
        if self.predicted and self.traits.batch_scales != (self.predicted.large_batch is not None):
            wrong = "no" if self.traits.batch_scales else "needless"
            raise ValueError(f"{self.recipe} has {wrong} predictions in large batches")
        return self
