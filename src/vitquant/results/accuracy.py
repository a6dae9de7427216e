"""results/accuracy/<recipe>.json: where and from what a recipe's predictions were made.

They lie in results/predictions/<recipe>.npz: `logits`, float32 (N, C), and `class_tokens`, float32 (N, D), after the
backbone's last norm, of the validation images in the split's order; nothing where there are none.
"""

from typing import Any, Literal

from pydantic import NonNegativeInt

from vitquant.results.environment import Machine
from vitquant.results.form import Form, ResultFile, Sha256
from vitquant.traits import Traits


class Predicted(Form):
    """Predictions over the validation split."""

    device: Literal["cpu", "cuda"]
    images: NonNegativeInt
    logits_sha256: Sha256
    """Of the float32 logits (N, C) in C order."""
    artifact_sha256: Sha256
    environment: Machine


class Accuracy(ResultFile):
    """The file."""

    recipe: str
    traits: Traits
    predicted: Predicted | None = None
    unavailable: str | None = None
    """Why nothing was predicted."""
    details: dict[str, Any] = {}
    """What building the artifact found out."""
