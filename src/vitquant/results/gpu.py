"""results/cuda/<device>.json: what was measured on one GPU, a study beside the other.

Predictions lie beside it in <device>.npz, by names that `array_name` gives: of each study the `labels`, int64 (N,),
and of each recipe the `logits`, float32 (N, C), and `cosine`, float32 (N,), of its class tokens to FP32's.
"""

import re
from pathlib import Path

from pydantic import PositiveFloat

from vitquant.results.benchmark import BatchSize, Run
from vitquant.results.facts import Facts
from vitquant.results.form import ResultFile
from vitquant.results.profile import Times


class GpuStudy(Run):
    """One study on the GPU."""

    date: str
    study: Facts
    copy_ms: dict[BatchSize, PositiveFloat] = {}
    """Batch size to milliseconds of copying such a batch, float32, from pinned memory; latency leaves it out."""
    profile: dict[str, Times] = {}
    """By recipe."""


class Gpu(ResultFile):
    """The file."""

    device: str
    quantize_dynamic: str
    """What PyTorch says when a layer of `quantize_dynamic` runs there."""
    studies: dict[str, GpuStudy]


def array_name(study: str, array: str, recipe: str = "") -> str:
    """The name of an array in <device>.npz; a recipe's name holds no slash, a study's may."""
    return f"{study}/{recipe}/{array}"


def study_of(array_name: str) -> str:
    """The study that an array in <device>.npz belongs to."""
    return array_name.rsplit("/", 2)[0]


def file_of(folder: Path, device: str) -> Path:
    """Where the results of a GPU stand: `NVIDIA H200` in nvidia-h200.json."""
    return folder / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
