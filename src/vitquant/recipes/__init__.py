"""Recipes: how an artifact is made from the FP32 one, and how it is loaded again.

A method is one module in this package: a file, or a folder where it has kernels of its own. It defines

- `Options`, a pydantic model of its options in params.yaml;
- `traits(options: Options) -> Traits`, what a recipe with these options is: bits, arithmetic, eager or compiled, and
  the types of device that `load` takes;
- `build(fp32: Artifact, directory: Path, options: Options, calibration: NDArray[np.uint8]) -> dict`, which writes
  the weights into `directory` and returns details worth recording; `calibration` are images of the train split,
  uint8 (N, H, W, 3), or what `Preprocessing.normalise` makes of them, and hands on: float32 (N, 3, H, W);
- `load(artifact: Artifact, device: torch.device) -> Callable[[Tensor], Tensor]`, which gives the function from
  preprocessed images, float32 (N, 3, H, W), to float32 (N, C + D), both on `device`: the logits, and beside them the
  embedding, of width D (vitquant.models.pooling); it may be called from several threads at once, and computes with as
  many threads as PyTorch has where it is loaded and called.

and, where importing the module does not load all of the engine's libraries,

- `preload() -> None`, which loads the others; the benchmark calls it first, so that they count as nobody's memory.

`build`, `load` and `preload` raise UnsupportedError where this machine cannot run the method.
"""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from vitquant import artifact, pool
from vitquant.artifact import Artifact
from vitquant.errors import MAKE_AGAIN, UnsupportedError, VitquantError
from vitquant.params import BASELINE, SEED_RECIPE, Params, Recipe
from vitquant.predictor import CPU, Predictor
from vitquant.traits import FP32
from vitquant.validation import describe


def method(name: str) -> ModuleType:
    """The module of the method `name`.

    Raises:
        VitquantError: there is no such method; the message lists those there are.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise VitquantError(f"unknown recipe method {name!r}: the methods are {', '.join(known)}")
    return importlib.import_module(f"{__name__}.{name}")


def preload(name: str) -> None:
    """Load the libraries that the method `name` needs, before its memory is measured.

    Raises:
        UnsupportedError: they do not load here.
    """
    getattr(method(name), "preload", lambda: None)()


def check_options(name: str, recipe: Recipe, place: str = "") -> Any:
    """The options of recipe `name` as its method's `Options`.

    Args:
        place: where they stand, for messages; if not said, in params.yaml.

    Raises:
        VitquantError: unknown method, or an option that the method does not have or take.
    """
    place = place or f"params.yaml: recipes.{name}"
    try:
        return method(recipe.method).Options.model_validate(recipe.options)
    except ValidationError as error:
        raise VitquantError(f"{place}: {describe(error, recipe.options)}") from None
    except VitquantError as error:
        raise VitquantError(f"{place}.method: {error}") from None


def check(params: Params, file: Path) -> None:
    """See that every recipe of the study, which `file` holds, has a method, and options that the method takes.

    Two names stand for what they are: `fp32` for the baseline, `dynamic-int8` for the seed report's recipe.

    Raises:
        VitquantError: one has not, is another recipe than its name stands for, or stands under `cuda` and runs on none.
    """
    for section, recipes in (("recipes", params.recipes), ("cuda.recipes", params.cuda.recipes)):
        for name, recipe in recipes.items():
            options = check_options(name, recipe, f"{file}: {section}.{name}")
            if section == "cuda.recipes" and "cuda" not in method(recipe.method).traits(options).devices:
                raise VitquantError(f"{file}: {section}.{name}.method: {recipe.method} runs on CPUs alone: take it out")
        own = recipes[BASELINE]
        if method(own.method).traits(check_options(BASELINE, own)) != FP32:
            raise VitquantError(f"{file}: {section}.{BASELINE}: the baseline must be eager FP32: use method: fp32")
    seed = params.recipes.get(SEED_RECIPE)
    if seed and (seed.method != "dynamic_int8" or seed.options.get("per_channel")):
        raise VitquantError(
            f"{file}: recipes.{SEED_RECIPE}: that name is the seed report's recipe, which claims are judged by, "
            "method: dynamic_int8 with per_channel: false: give this one another name"
        )


def build(name: str, recipe: Recipe, fp32: Path, destination: Path, calibration: NDArray[Any]) -> None:
    """Apply recipe `name` to the FP32 artifact at `fp32` and write the artifact `destination`.

    Args:
        calibration: images of the train split, uint8 (N, H, W, 3), for the methods that observe activations; or
            preprocessed, float32 (N, 3, H, W).
    """
    from vitquant.models.vit import is_plain  # and with it timm, which `load` need not know

    options = check_options(name, recipe)
    source = artifact.open_artifact(fp32)
    module = method(recipe.method)
    update = {"recipe": name, "method": recipe.method, "options": options.model_dump()}
    spec = source.spec.model_copy(update={**update, "traits": module.traits(options)})

    def fill(directory: Path) -> dict[str, Any]:
        if is_plain(source.spec.architecture, source.spec.preprocessing.crop):
            details: dict[str, Any] = module.build(source, directory, options, calibration)
            return details
        return _build_and_try(module, source, directory, options, calibration)

    artifact.write(destination, spec, fill)


def _build_and_try(
    module: ModuleType, source: Artifact, directory: Path, options: Any, calibration: NDArray[Any]
) -> dict[str, Any]:
    """Build, load, and run one image: engines differ in which of timm's other architectures they take.

    Raises:
        UnsupportedError: it is none of those; the message is the engine's own.
    """
    method_name = module.__name__.rpartition(".")[2]
    try:
        details: dict[str, Any] = module.build(source, directory, options, calibration)
        forward = module.load(artifact.unfinished(source.spec, directory, method_name, options), CPU)
        with torch.inference_mode():
            outputs = forward(source.spec.preprocessing.normalise(torch.from_numpy(calibration[:1].copy())))
        Artifact(directory, source.spec).check_outputs(outputs.cpu().numpy())
    except (VitquantError, OSError, MemoryError):
        raise
    except Exception as error:  # an engine can raise any
        said = " ".join(str(error).split())[:200]
        what = f"{method_name} does not run {source.spec.architecture}"
        raise UnsupportedError(f"{what}: {type(error).__name__}{f': {said}' if said else ''}") from None
    return details


def load(path: Path, device: torch.device = CPU, split: bool = False) -> Predictor:
    """Verify and load the artifact at `path`, on `device` if its method runs there, else on the CPU.

    Args:
        split: give each core its own images of a batch, instead of the whole batch to all cores; both use as many cores
            as PyTorch has threads now.

    Raises:
        VitquantError: it is damaged, or `split` is wanted on a GPU.
        UnsupportedError: it cannot run on this machine.
    """
    opened = artifact.open_artifact(Path(path))
    if opened.spec.unavailable:
        raise UnsupportedError(opened.spec.unavailable)
    device = device if device.type in opened.spec.traits.devices else CPU
    if split and device.type != "cpu":
        raise VitquantError(f"a batch is split over the cores of a CPU: load {opened.path} on the CPU, or whole")
    module = method(opened.spec.method)
    try:
        module.Options.model_validate(opened.spec.options)
    except ValidationError as error:
        said = describe(error, opened.spec.options)
        raise VitquantError(f"{opened.path}: recipe.json: options: {said}: {MAKE_AGAIN}") from None

    def forward() -> Callable[[Tensor], Tensor]:
        function: Callable[[Tensor], Tensor] = module.load(opened, device)
        return function

    return Predictor(opened, pool.split(forward) if split else forward(), device)
