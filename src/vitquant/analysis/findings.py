"""What the results say: results/findings.json, which the report, `recommend`, `summary` and `diff` read.

Values are rounded once, here, as they are kept: what is printed from the file is what was printed when it was made.
MB are 10^6 bytes, pp are percentage points. `fp32` is the baseline of every difference and ratio.
"""

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveFloat, model_validator

from vitquant.params import BASELINE
from vitquant.results.benchmark import BatchSize
from vitquant.results.environment import Conditions, Environment
from vitquant.results.facts import Facts
from vitquant.results.form import Form, ResultFile
from vitquant.results.profile import Times
from vitquant.traits import Arithmetic, Traits

Range = tuple[float, float]
"""The least and the greatest over launches."""
Unit = Literal["%", "pp", "×", "ms"]


class Finding(Form):
    """A part of the findings; nobody changes it."""

    model_config = ConfigDict(frozen=True)


class Estimate(Finding):
    """A value and its 95 % interval, in one unit."""

    value: float
    low: float
    high: float
    unit: Unit

    @model_validator(mode="after")
    def _possible(self) -> "Estimate":
        outside = self.unit == "×" and not all(1e-9 < number < 1e9 for number in (self.value, *self.interval))  # noqa: PLR2004
        if self.low > self.high or outside:
            raise ValueError(f"{self.value:g} [{self.low:g}, {self.high:g}] is no value and interval in {self.unit}")
        return self

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high

    def rounded(self, decimals: int) -> "Estimate":
        """The same to so many decimals; a ratio does not become 0."""
        least = 10**-decimals if self.unit == "×" else -math.inf
        value, low, high = (max(round(number, decimals), least) for number in (self.value, self.low, self.high))
        return Estimate(value=value, low=low, high=high, unit=self.unit)


class Rival(Finding):
    """Another recipe, and its time over this one's in the same round."""

    recipe: str
    ratio: Estimate


class Accuracy(Finding):
    """How often a recipe is right, and how it differs from FP32 over the same images."""

    device: Literal["cpu", "cuda"]
    top1: Estimate
    top5: Estimate | None = None
    """None where there are no more than five classes."""
    top1_delta: Estimate | None = None
    """Less FP32's; None of FP32 itself, and where FP32 has no accuracy. The next ones likewise."""
    top5_delta: Estimate | None = None
    gained: int | None = None
    """Images that it has right and FP32 has not."""
    lost: int | None = None
    """Images that FP32 has right and it has not."""
    mcnemar_p: float | None = None
    holm_p: float | None = None
    """The same, corrected for the number of recipes that are compared with FP32."""
    agreement_pct: float | None = None
    """Of the images: those with the same top-1 class."""
    class_token_mean_cosine: float | None = None
    """Of the embeddings, of most ViTs the class tokens, to FP32's."""
    class_token_p1_cosine: float | None = None
    """The 1st percentile: 99 of 100 images have more."""
    class_token_least_cosine: float | None = None
    nearest_agreement_pct: float | None = None
    """Of the images: those with the same nearest neighbour in the train split; where embeddings are studied."""
    own_images: int | None = None
    """Images that it predicted itself, where those are a part, since its logits are FP32's but for rounding."""
    undecided_images: int | None = None
    """Of the others: those whose classes FP32 tells apart by so little that the recipe's top-1 or top-5 may differ."""
    large_batch: int | None = None
    """The batch size at which the next ones were found; None of a recipe whose images do not affect each other."""
    top1_large_batch: Estimate | None = None
    top1_delta_large_batch: Estimate | None = None
    """Less FP32's, as `top1_delta`."""
    agreement_large_batch_pct: float | None = None
    """With FP32, as `agreement_pct`."""


class Speed(Finding):
    """How fast a recipe is at one batch size."""

    p50_ms: PositiveFloat
    """Milliseconds per batch, as are the next ones."""
    p90_ms: float
    p99_ms: float
    mean: Estimate | None = None
    spread_pct: float | None = None
    """Of the launches' medians: 1.4826 times their median absolute deviation, in percent of their median."""
    images_per_s: PositiveFloat
    """At the median."""
    speedup: Estimate | None = None
    """FP32's time over this one's, in the same round; None of FP32 itself, and where FP32 was not timed."""
    fastest_other: Rival | None = None
    """The fastest of all other recipes."""
    best_float: Rival | None = None
    """The fastest other recipe that does not quantize, of any engine."""
    energy_mj: float | None = None
    """Millijoules per image, less what the device takes when idle."""
    from_file_ms: float | None = None
    """At batch 1: the median of decoding, preprocessing and predicting an image."""
    way: Literal["whole", "split"] | None = None
    """Of a batch on several cores: whole on all of them, or a part on each; None where there is one way only."""
    memory_peak_mb: float | None = None
    """The process's growth to its highest while such batches are predicted; the median over launches."""
    memory_peak_range_mb: Range | None = None
    gproducts_per_s: float | None = None
    """10^9 products of the linear layers per second of the whole pass."""
    register_pct: float | None = None
    """Of what this machine reaches in registers with the recipe's arithmetic."""


class Footprint(Finding):
    """What a recipe takes."""

    memory_model_mb: float
    """After inference at batch 1; the median over launches, as is the next one."""
    memory_model_range_mb: Range | None = None
    memory_peak_mb: PositiveFloat
    """To its highest, loading and inference at batch 1; on a GPU of PyTorch's allocator, at any batch size."""
    memory_peak_range_mb: Range | None = None
    memory_process_mb: float | None = None
    """On a GPU of the whole process."""
    size_mb: PositiveFloat
    size_reduction_pct: float | None = None
    """Less than FP32's; None of FP32 itself."""


class Recipe(Finding):
    """All that was found of one recipe."""

    traits: Traits
    accuracy: Accuracy | None = None
    speeds: dict[BatchSize, Speed] = {}
    footprint: Footprint | None = None
    unavailable: dict[str, str] = {}
    """What could not be measured, and why."""

    def at(self, size: int) -> Speed:
        """Its speed at a batch size; KeyError where it was not timed at that."""
        return self.speeds[size]

    def speedup(self, size: int) -> Estimate | None:
        """FP32's time over its own at a batch size; None where there is no such ratio."""
        return self.speeds[size].speedup if size in self.speeds else None

    def peak_mb(self, size: int) -> float:
        """The most memory that it takes, loading and then predicting batches of that size; infinite if not measured."""
        at_size = self.speeds[size].memory_peak_mb if size in self.speeds else None
        return max(self.footprint.memory_peak_mb, at_size or 0.0) if self.footprint else math.inf

    @property
    def top1_delta(self) -> Estimate | None:
        """Top-1 less FP32's, pp; None where there is no such difference."""
        return self.accuracy.top1_delta if self.accuracy else None

    @property
    def cosine(self) -> float | None:
        """Of its embeddings to FP32's, which 99 of 100 images exceed; None where there is none."""
        return self.accuracy.class_token_p1_cosine if self.accuracy else None


class Roofline(Finding):
    """What the linear layers' speed is held against."""

    products_per_image: int
    """Multiplications in the model's linear layers."""
    register_products_per_s: dict[Arithmetic, float] = {}
    """What this machine's threads reach together while all operands stay in registers."""
    unavailable: str | None = None
    """Why that is not known."""


class Tails(Finding):
    """Of one recipe's passes in a row at batch 1, with no other recipe loaded."""

    recipe: str
    passes: int
    p50_ms: PositiveFloat
    """Milliseconds, as are the next ones."""
    p90_ms: PositiveFloat
    p99_ms: PositiveFloat
    p999_ms: PositiveFloat
    """p99.9."""
    max_ms: PositiveFloat
    first_p50_ms: PositiveFloat | None = None
    """Of the first fifth of the passes."""
    last_p50_ms: PositiveFloat | None = None
    """Of the last fifth: passes that follow each other share a phase of the machine."""
    conditions: Conditions


class Study(Finding):
    """All that was found on one device."""

    facts: Facts
    environment: Environment
    date: str | None = None
    """Of the measurement, in a GPU's file."""
    conditions: list[Conditions] = []
    """One a launch."""
    trial: Conditions | None = None
    repeated: list[Conditions] = []
    """Of the launches that were thrown away since the machine was busy."""
    allocator: str | None = None
    idle_w: float | None = None
    unavailable_energy: str | None = None
    copy_ms: dict[BatchSize, float] = {}
    """On a GPU: batch size to milliseconds of copying such a batch there, which latency leaves out."""
    roofline: Roofline | None = None
    recipes: Annotated[dict[str, Recipe], Field(min_length=1)]
    tails: Tails | None = None
    """On the CPU: of the recommended recipe."""
    unavailable_tails: str | None = None
    """Why there are none."""
    profile: dict[str, Times] = {}
    profile_batch: int | None = None

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that were timed, ascending."""
        return sorted({size for recipe in self.recipes.values() for size in recipe.speeds})

    @property
    def baseline(self) -> Recipe:
        """FP32's."""
        return self.recipes[BASELINE]


class Device(Finding):
    """All that was found on one GPU."""

    device: str
    quantize_dynamic: str
    """What PyTorch says when a layer of `quantize_dynamic` runs there."""
    studies: dict[str, Study]


class Findings(ResultFile):
    """The file."""

    study: Study
    gpus: list[Device] = []
