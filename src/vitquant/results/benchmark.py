"""results/benchmark.json, and what the GPUs' files share with it: samples of every recipe's speed, memory and size."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from vitquant.results.environment import Conditions, Environment
from vitquant.results.form import Form, ResultFile, Sha256
from vitquant.traits import Arithmetic, Traits

BatchSize = Annotated[int, Field(ge=1, le=999_999_999)]
Samples = Annotated[list[PositiveFloat], Field(min_length=2)]


class Memory(Form):
    """Growth of a process, on a GPU of PyTorch's allocations there, in bytes, from before the artifact was loaded."""

    model: int
    """To after inference at batch 1."""
    peak: int
    """To its highest; on a GPU at any batch size."""


class Measured(Form):
    """A recipe that could be loaded."""

    artifact_sha256: Sha256
    size_bytes: PositiveInt
    memory_bytes: Memory
    latency_ms: dict[BatchSize, Samples] = {}
    """Batch size to milliseconds per batch, one a round: the same index in two recipes is the same round."""
    unavailable_batches: dict[BatchSize, str] = {}
    """Batch size to why it cannot be run."""
    slow: str | None = None
    """Why it was timed in the first rounds only."""
    process_memory_bytes: NonNegativeInt | None = None
    """On a GPU: of the whole process, where NVML tells it."""
    energy_mj: dict[BatchSize, PositiveFloat] = {}
    """On a GPU: batch size to millijoules per image, idle power included."""
    logits_sha256: Sha256 | None = None
    """On a GPU: of the validation images' logits, float32 (N, C), which lie beside the file."""
    unavailable_accuracy: str | None = None
    """On a GPU: why there are none."""


class Benchmarked(Form):
    """What there is of a recipe."""

    traits: Traits
    measured: Measured | None = None
    unavailable: str | None = None
    """Why it could not be loaded."""


class Run(Form):
    """One run of the benchmark, on the CPU or a GPU."""

    environment: Environment
    conditions: Conditions
    products_per_image: PositiveInt
    """Multiplications in the model's linear layers, the patch embedding among them."""
    recipes: dict[str, Benchmarked]


class Benchmark(ResultFile, Run):
    """The file of the CPU's."""

    register_products_per_s: dict[Arithmetic, PositiveFloat] = {}
    """What this machine's threads reach together while all operands stay in registers."""
    unavailable_register_rate: str | None = None
    """Why that was not measured."""
