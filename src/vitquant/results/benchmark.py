"""results/benchmark.json, and what the GPUs' files share with it: samples of every recipe's speed, memory and size."""

from typing import Annotated

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from vitquant.results.environment import Conditions, Environment
from vitquant.results.form import Form, ResultFile, Sha256
from vitquant.traits import Arithmetic, Traits

BatchSize = Annotated[int, Field(ge=1, le=999_999_999)]
Rounds = Annotated[list[PositiveFloat], Field(min_length=1)]
Launches = Annotated[list[Rounds], Field(min_length=1)]
"""Samples in milliseconds: of every launch of a process, of every round in it."""


class Memory(Form):
    """Growth of a process, on a GPU of PyTorch's allocations there, in bytes, from before the artifact was loaded."""

    model: int
    """To after inference at batch 1."""
    load_peak: int
    """To its highest by then; on a GPU, where every batch size is warmed up at once, at any of them."""
    peak: dict[BatchSize, int] = {}
    """Batch size to the highest while such a batch is predicted."""


class Trial(Form):
    """The two ways to run a batch on several cores, before anything was counted; the faster one is timed."""

    whole_ms: PositiveFloat
    """Milliseconds per batch, the whole of it on all cores."""
    split_ms: PositiveFloat
    """A part of the batch on each core."""

    @property
    def is_split(self) -> bool:
        """Whether the batch is split over the cores in what is timed."""
        return self.split_ms < self.whole_ms


class Measured(Form):
    """A recipe that could be loaded."""

    artifact_sha256: Sha256
    size_bytes: PositiveInt
    memory_bytes: Annotated[list[Memory], Field(min_length=1)]
    """One a launch."""
    latency_ms: dict[BatchSize, Launches] = {}
    """Batch size to milliseconds per batch: the same launch and round in two recipes are the same on the clock."""
    from_file_ms: Annotated[list[Rounds], Field(max_length=999)] = []
    """Likewise, of one image from its file's content: decoding, preprocessing and prediction."""
    trials: dict[BatchSize, Trial] = {}
    """Batch size to the ways to run it, where there are two."""
    unavailable_batches: dict[BatchSize, str] = {}
    """Batch size to why it cannot be run."""
    slow: str | None = None
    """Why it was timed in the first rounds of the first launch only, at the first batch size."""
    process_memory_bytes: NonNegativeInt | None = None
    """On a GPU: of the whole process, where NVML tells it."""
    energy_mj: dict[BatchSize, PositiveFloat] = {}
    """Batch size to millijoules per image, less what the device takes when idle."""
    logits_sha256: Sha256 | None = None
    """On a GPU: of the validation images' logits, float32 (N, C), which lie beside the file."""
    unavailable_accuracy: str | None = None
    """On a GPU: why there are none."""

    @field_validator("trials")
    @classmethod
    def _of_several_images(cls, trials: dict[BatchSize, Trial]) -> dict[BatchSize, Trial]:
        if 1 in trials:
            raise ValueError("one image cannot be split over the cores")
        return trials

    @model_validator(mode="after")
    def _equal_rounds(self) -> "Measured":
        launches = [*self.latency_ms.values(), *([self.from_file_ms] if self.from_file_ms else [])]
        if any(len(each) != len(self.memory_bytes) for each in launches):
            raise ValueError("latency_ms, from_file_ms and memory_bytes are of different numbers of launches")
        if any(len(each) == len(each[0]) == 1 for each in launches):
            raise ValueError("latency_ms holds one pass, which has no interval")
        if self.from_file_ms and rounds(self.from_file_ms) != rounds(self.latency_ms.get(1, [])):
            raise ValueError("from_file_ms has other rounds than latency_ms at batch 1")
        return self

    def is_split(self, size: int) -> bool:
        """Whether batches of that size were timed split over the cores."""
        return size in self.trials and self.trials[size].is_split


class Benchmarked(Form):
    """What there is of a recipe."""

    traits: Traits
    measured: Measured | None = None
    unavailable: str | None = None
    """Why it could not be loaded."""


class Run(Form):
    """One run of the benchmark, on the CPU or a GPU."""

    environment: Environment
    conditions: Annotated[list[Conditions], Field(min_length=1)]
    """One a launch."""
    trial: Conditions | None = None
    """On the CPU: of the launch before them, which tried the ways to run a batch."""
    repeated: list[Conditions] = []
    """Of the launches that were thrown away, before anyone saw their times, since the machine was busy."""
    allocator: str | None = None
    """On the CPU: which one every process had, and how it was set."""
    idle_w: NonNegativeFloat | None = None
    """What the device takes when nothing runs."""
    unavailable_energy: str | None = None
    """Why there is none."""
    products_per_image: PositiveInt
    """Multiplications in the model's linear layers, the patch embedding among them."""
    recipes: dict[str, Benchmarked]

    @model_validator(mode="after")
    def _all_launches(self) -> "Run":
        measured = {name: recipe.measured for name, recipe in self.recipes.items() if recipe.measured}
        counts: dict[int, list[int]] = {}
        for name, own in measured.items():
            launched = 1 if own.slow else len(self.conditions)
            if len(own.memory_bytes) != launched:
                raise ValueError(f"recipes.{name} is of {len(own.memory_bytes)} launches, and not of {launched}")
            if own.energy_mj and self.idle_w is None:
                raise ValueError(f"recipes.{name} has energy_mj, but there is no idle_w to take off")
            for size, launches in own.latency_ms.items():
                if not own.slow and rounds(launches) != counts.setdefault(size, rounds(launches)):
                    raise ValueError(f"recipes.{name} has other rounds at batch {size} than the recipes before it")
                if own.slow and size in counts and counts[size][0] == 1:
                    raise ValueError(f"recipes.{name} shares one round at batch {size}, which has no interval")
        return self


def rounds(launches: Launches) -> list[int]:
    """How many each launch has."""
    return [len(times) for times in launches]


class Benchmark(ResultFile, Run):
    """The file of the CPU's."""

    register_products_per_s: dict[Arithmetic, PositiveFloat] = {}
    """What this machine's threads reach together while all operands stay in registers."""
    unavailable_register_rate: str | None = None
    """Why that was not measured."""
