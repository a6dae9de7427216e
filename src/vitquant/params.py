"""params.yaml as typed, validated, immutable objects. The comments in params.yaml say what each key means."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from vitquant.errors import VitquantError

Fraction = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Wheel = Annotated[str, Field(pattern="^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A mapping in params.yaml: unknown keys and silently converted types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OnnxWheelModel(Section):
    """Weights read from an ONNX file inside a wheel."""

    source: Literal["onnx-wheel"]
    name: str
    wheel: Wheel
    sha256: Sha256
    file: str


class RandomModel(Section):
    """A randomly initialised ViT: for speed, and for the tests' miniature study."""

    source: Literal["random"]
    name: str
    seed: Seed


class Images(Section):
    """What every data source shares: the geometry of the images and the split."""

    resize: PositiveInt
    crop: PositiveInt
    val_fraction: Fraction
    seed: Seed
    on_undecodable: Literal["stop", "skip"]

    @model_validator(mode="after")
    def _crop_fits(self) -> "Images":
        if self.crop > self.resize:
            raise ValueError(f"crop ({self.crop}) must not exceed resize ({self.resize})")
        return self


class ElpvData(Images):
    """ELPV: electroluminescence photographs of solar cells, from a wheel."""

    source: Literal["elpv"]
    wheel: Wheel
    sha256: Sha256


class FolderData(Images):
    """One folder per class, images inside."""

    source: Literal["folder"]
    path: str


class Probe(Section):
    """How the linear probe's regularisation is chosen."""

    holdout_fraction: Fraction
    c: Annotated[list[PositiveFloat], Field(min_length=1)]
    seed: Seed


class Recipe(BaseModel):
    """A recipe: its method (a file of vitquant.recipes) and that method's own options, checked there."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    method: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `method`."""
        return dict(self.model_extra or {})


class Evaluate(Section):
    """How the validation split is run."""

    batch_size: PositiveInt


class Batch(Section):
    """A batch size to time, and how many rounds."""

    size: PositiveInt
    rounds: Annotated[int, Field(ge=2)]


class Benchmark(Section):
    """How latency is measured."""

    warmup: Annotated[int, Field(ge=0)]
    batches: Annotated[list[Batch], Field(min_length=1)]
    seed: Seed

    @field_validator("batches")
    @classmethod
    def _each_once(cls, batches: list[Batch]) -> list[Batch]:
        sizes = [batch.size for batch in batches]
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"each batch size may stand once, got {sizes}")
        return batches


class Report(Section):
    """How the statistics are computed."""

    resamples: Annotated[int, Field(ge=100)]
    seed: Seed


RecipeName = Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$")]


class Params(Section):
    """The whole of params.yaml."""

    study: Annotated[str, Field(min_length=1)]
    threads: Literal["auto"] | PositiveInt
    model: Annotated[OnnxWheelModel | RandomModel, Field(discriminator="source")]
    data: Annotated[ElpvData | FolderData, Field(discriminator="source")]
    head: Literal["probe"]
    probe: Probe
    recipes: dict[RecipeName, Recipe]
    evaluate: Evaluate
    benchmark: Benchmark
    report: Report

    @field_validator("recipes")
    @classmethod
    def _has_baseline(cls, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        if "fp32" not in recipes:
            raise ValueError("fp32 must be among the recipes: it is the baseline of every difference and ratio")
        return recipes


def describe(error: ValidationError) -> str:
    """A pydantic error as one line: `key: what is wrong (got value)`, joined by semicolons."""
    problems = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"{place}: unknown key")
        elif item["type"] == "missing":
            problems.append(f"{place}: missing")
        else:
            problems.append(f"{place}: {item['msg']} (got {item['input']!r})"[:300])
    return "; ".join(problems)


def load(path: Path) -> Params:
    """Read and validate params.yaml.

    Raises:
        VitquantError: missing, not YAML, or a key or value that the study cannot have.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise VitquantError(f"{path} is missing: run in the repository's root, or name it with --params") from None
    except yaml.YAMLError as error:
        raise VitquantError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise VitquantError(f"{path}: {describe(error)}") from None
