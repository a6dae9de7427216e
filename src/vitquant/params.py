"""params.yaml as typed, validated, immutable objects. The comments in params.yaml say what each key means."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

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

from vitquant import yaml_files
from vitquant.errors import VitquantError
from vitquant.urls import shown
from vitquant.validation import describe

Fraction = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Wheel = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._+!-]+$")]
Url = Annotated[str, Field(pattern="^(https?://[^/]+|file://)/.+$")]
Pixels = PositiveInt | Literal["auto"]
RecipeName = Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Megapixels = Annotated[float, Field(gt=0, le=178)]  # beyond which Pillow refuses itself
BASELINE = "fp32"  # the recipe of every difference and ratio
SEED_RECIPE = "dynamic-int8"  # the seed report's, by which its claims are judged


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


class Dinov2Model(Section):
    """Official DINOv2 weights, from PyTorch Hub's location; `head_…` is the ImageNet-1k head that goes with them."""

    source: Literal["dinov2"]
    name: Literal["vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_large_patch14_dinov2"]
    url: Url
    sha256: Sha256
    head_url: Url
    head_sha256: Sha256


class FileModel(Section):
    """A timm ViT with weights from a local file: safetensors, or a checkpoint of torch.save."""

    source: Literal["file"]
    name: str
    path: Annotated[str, Field(min_length=1)]
    classes: Annotated[str, Field(min_length=1)] | None = None
    """A file with the classes of the checkpoint's classifier in its order, one a line."""


class TimmModel(Section):
    """A timm ViT with the weights that timm publishes under this name, downloaded by timm."""

    source: Literal["timm"]
    name: str
    classes: Annotated[str, Field(min_length=1)] | None = None
    """As above."""


class RandomModel(Section):
    """A randomly initialised ViT: for speed, and for the tests' miniature study."""

    source: Literal["random"]
    name: str
    seed: Seed


Model = OnnxWheelModel | Dinov2Model | FileModel | TimmModel | RandomModel


class Images(Section):
    """What every data source shares; `auto` takes what the model's own configuration says."""

    resize: Pixels
    crop: Pixels
    interpolation: Literal["auto", "bilinear", "bicubic"]
    seed: Seed
    on_undecodable: Literal["stop", "skip"]
    max_megapixels: Megapixels

    @model_validator(mode="after")
    def _crop_fits(self) -> "Images":
        if isinstance(self.crop, int) and isinstance(self.resize, int) and self.crop > self.resize:
            raise ValueError(f"crop ({self.crop}) must not exceed resize ({self.resize})")
        return self


class ElpvData(Images):
    """ELPV: electroluminescence photographs of solar cells, from a wheel."""

    source: Literal["elpv"]
    wheel: Wheel
    sha256: Sha256
    val_fraction: Fraction
    train_fraction: Fraction | None = None
    """Of all images, as `val_fraction` is; None: all the rest."""


class FolderData(Images):
    """One folder per class, images inside; or such folders below `train` and `val`, which are then the split."""

    source: Literal["folder"]
    path: Annotated[str, Field(min_length=1)]
    val_fraction: Fraction
    train_fraction: Fraction | None = None
    """As above."""


class TinyImagenetData(Images):
    """Tiny ImageNet-200, from its official zip; the official train and validation images, or some of each class."""

    source: Literal["tiny-imagenet"]
    url: Url
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    train_per_class: PositiveInt | Literal["all"]
    val_per_class: PositiveInt | Literal["all"]


Data = ElpvData | FolderData | TinyImagenetData


class Probe(Section):
    """How the linear probe's regularisation is chosen."""

    holdout_fraction: Fraction
    c: Annotated[list[PositiveFloat], Field(min_length=1)]
    seed: Seed


class Embedding(Section):
    """What `head: features` gives, and the k nearest neighbours that classify by it."""

    pooling: Literal["class", "mean", "own"]
    neighbours: PositiveInt
    temperature: Annotated[float, Field(gt=0, le=1)]


class Recipe(BaseModel):
    """A recipe: its method (a file of vitquant.recipes) and that method's own options, checked there."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    method: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `method`."""
        return dict(self.model_extra or {})


class Calibration(Section):
    """The images, of the train split, that recipes may observe."""

    images: PositiveInt
    seed: Seed


class Evaluate(Section):
    """How the validation split is run."""

    batch_size: PositiveInt
    cuda_batch_size: PositiveInt
    large_batch: PositiveInt
    workers: Annotated[int, Field(ge=0)]


class Batch(Section):
    """A batch size to time, how many rounds, and for how long one visit times passes together: 0 for one pass."""

    size: PositiveInt
    rounds: PositiveInt
    seconds: Annotated[float, Field(ge=0, lt=60)] = 0.0


class Benchmark(Section):
    """How latency is measured."""

    launches: Annotated[int, Field(ge=1, le=100)]
    max_busy_pct: Annotated[float, Field(gt=0, le=100)]
    max_repeats: Annotated[int, Field(ge=0, le=100)]
    warmup: Annotated[int, Field(ge=1, le=1000)]
    batches: Annotated[list[Batch], Field(min_length=1)]
    seed: Seed
    energy_seconds: Annotated[float, Field(gt=0, le=600)]

    @field_validator("batches")
    @classmethod
    def _each_once(cls, batches: list[Batch]) -> list[Batch]:
        sizes = [batch.size for batch in batches]
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"each batch size may stand once, got {sizes}")
        return batches

    @model_validator(mode="after")
    def _enough_for_an_interval(self) -> "Benchmark":
        """Of one launch it is over rounds; a recipe that is far too slow has one launch, at the first size."""
        for batch in self.batches if self.launches == 1 else self.batches[:1]:
            if batch.rounds == 1:
                raise ValueError(f"batches: one round at size {batch.size} has no interval: give it 2 or more")
        return self


class CpuBenchmark(Benchmark):
    """What is measured on the CPU besides."""

    tail_passes: Annotated[int, Field(ge=100, le=1_000_000)]

    @field_validator("batches")
    @classmethod
    def _of_one_pass(cls, batches: list[Batch]) -> list[Batch]:
        if any(batch.seconds for batch in batches):
            raise ValueError("seconds is for GPUs: on the CPU a round is one pass")
        return batches


class Cuda(Benchmark):
    """What is measured on a GPU, and how."""

    recipes: dict[RecipeName, Recipe]
    profile: list[str]
    speed_only: list[str]

    @model_validator(mode="after")
    def _known(self) -> "Cuda":
        if BASELINE not in self.recipes:
            raise ValueError(f"{BASELINE} must be among the recipes: it is the baseline of every ratio")
        unknown = sorted(set(self.profile) - set(self.recipes))
        if unknown:
            raise ValueError(f"profile names recipes that are not there: {', '.join(unknown)}")
        return self


class Params(Section):
    """The whole of params.yaml."""

    study: Annotated[str, Field(min_length=1)]
    threads: Literal["auto"] | PositiveInt
    device: Literal["auto", "cpu", "cuda"]
    model: Annotated[Model, Field(discriminator="source")]
    data: Annotated[Data, Field(discriminator="source")]
    max_slowdown: Annotated[float, Field(gt=1)]
    head: Literal["probe", "own", "features", "imagenet1k", "none"]
    probe: Probe
    embedding: Embedding
    calibration: Calibration
    recipes: dict[RecipeName, Recipe]
    evaluate: Evaluate
    benchmark: CpuBenchmark
    cuda: Cuda

    @model_validator(mode="after")
    def _head_fits(self) -> "Params":
        if self.head == "imagenet1k" and self.model.source != "dinov2":
            raise ValueError(f"head: imagenet1k belongs to model.source: dinov2, not {self.model.source}: use probe")
        if self.head == "own" and not isinstance(self.model, FileModel | TimmModel):
            raise ValueError(f"head: own is for model.source: file or timm, not {self.model.source}: use probe")
        return self

    @field_validator("recipes")
    @classmethod
    def _has_baseline(cls, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        if BASELINE not in recipes:
            raise ValueError(f"{BASELINE} must be among the recipes: it is the baseline of every difference and ratio")
        return recipes


def load(path: Path) -> Params:
    """Read and validate params.yaml.

    Raises:
        VitquantError: missing, not YAML, or a key or value that the study cannot have.
    """
    return validate(yaml_files.read(path), path)


def validate(content: Any, path: Path) -> Params:
    """The parsed content of `path` as parameters.

    Raises:
        VitquantError: a key or value that the study cannot have.
    """
    for key, value in _texts(content):
        if "${" in value:
            raise VitquantError(
                f"{path}: {key}: '${{' would be replaced by DVC: write the value itself (got {shown(value)!r})"
            )
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise VitquantError(f"{path}: {describe(error, content)}") from None


def _texts(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in `content`, keys among them, and where it stands."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _texts(value, f"{place}.{index}")
    elif isinstance(content, dict):
        for key, value in content.items():
            inside = f"{place}.{key}".removeprefix(".")
            yield inside, str(key)
            yield from _texts(value, inside)
