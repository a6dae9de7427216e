"""A model in memory, quantized: for those who have one and no study.

>>> import timm, torch, vitquant
>>> model = timm.create_model("test_vit", num_classes=10)
>>> images = torch.rand(8, 3, 160, 160)
>>> quantized = vitquant.quantize(model, images)
>>> quantized(images).shape
torch.Size([8, 10])

It is what the recipes do, by the same code: the model becomes an FP32 artifact, and a recipe makes another of that.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from timm.utils.model import unwrap_model
from torch import Tensor, nn

from vitquant import artifact, calibration, files, recipes
from vitquant.artifact import Artifact, Spec, open_artifact
from vitquant.calibration import Images
from vitquant.errors import UnsupportedError, VitquantError, describe_os_error
from vitquant.models import in_memory
from vitquant.params import BASELINE, Recipe
from vitquant.predictor import write_weights
from vitquant.traits import FP32

NAMED: dict[str, dict[str, Any]] = {  # those of params.yaml, by their names there
    "fp32": {"method": "fp32"},
    "fp32-compiled": {"method": "compiled", "dtype": "float32"},
    "bf16-compiled": {"method": "compiled", "dtype": "bfloat16"},
    "dynamic-int8": {"method": "dynamic_int8", "per_channel": False, "keep_float": ["head"], "engine": "auto"},
    "dynamic-int8-per-channel": {
        **{"method": "dynamic_int8", "per_channel": True, "keep_float": ["head"], "engine": "auto"}
    },
    "dynamic-int8-smooth": {"method": "dynamic_int8_smooth", "engine": "auto"},
    "torchao-int8-dynamic": {"method": "torchao_int8_dynamic"},
    "int8-weight-only": {"method": "int8_weight_only"},
    "int4-weight-only": {"method": "int4_weight_only"},
    "static-int8": {"method": "static_int8"},
    "onnxruntime-int8-dynamic": {"method": "onnxruntime", "precision": "int8"},
    "openvino-int8-static": {"method": "openvino", "precision": "int8", "inference_precision": "f32"},
    "vitquant-int8": {"method": "vitquant_int8"},
}
NAMED_ON_GPU: dict[str, dict[str, Any]] = {
    "vitquant-gpu-int8": {"method": "vitquant_gpu", "format": "int8", "scales": "static"},
    "vitquant-gpu-int8-dynamic": {"method": "vitquant_gpu", "format": "int8", "scales": "dynamic"},
    "bf16-compiled": {"method": "floating_point", "dtype": "bfloat16", "compile": True},
    "fp16-compiled": {"method": "floating_point", "dtype": "float16", "compile": True},
}
FASTEST = ("vitquant-int8", "openvino-int8-static", "static-int8", "dynamic-int8-smooth")
"""Of 8-bit recipes on CPUs, by results/report.md; the first that can take the model is made."""
FASTEST_ON_GPU = ("vitquant-gpu-int8", "bf16-compiled", "fp16-compiled")
"""By docs/vitquant-gpu.md and results/report.md."""


class Quantized(nn.Module):
    """A quantized model: inputs, float32 (N, 3, H, W), to what the model gives, float32 (N, C), for inference.

    It has no parameters that PyTorch sees, and stays on its device. `save` and `load` are its way to a file;
    `torch.save` and pickle are refused. A copy shares all that it has.

    Args:
        path: of the artifact.
        device: as `recipes.load`.
        folder: what `path` lies in, deleted with the last copy of this object.
    """

    def __init__(self, path: Path, device: torch.device, folder: TemporaryDirectory[str] | None = None) -> None:
        super().__init__()
        self._folder = folder
        self.predictor = recipes.load(path, device)

    @property
    def artifact(self) -> Artifact:
        """Where it lies, and what it says of itself: recipe, classes, preprocessing."""
        return self.predictor.artifact

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images, float (N, 3, H, W), on any device, to logits or embeddings, float32 (N, C), there.

        An image that holds NaN or infinity gets NaN alone, as a model in floating point would give, whatever the
        engine makes of it; the others of its batch get what they would beside an image of zeros.

        Raises:
            VitquantError: images of another type or shape.
        """
        spec, side = self.artifact.spec, self.artifact.spec.preprocessing.crop
        if not isinstance(images, Tensor) or not images.is_floating_point():
            found = images.dtype if isinstance(images, Tensor | np.ndarray) else type(images).__name__
            which = "of an array it is torch.from_numpy(array)" if isinstance(images, np.ndarray) else "normalise first"
            raise VitquantError(f"the model takes preprocessed images, a tensor of floats, not {found}: {which}")
        if images.ndim != 4 or images.shape[1:] != (3, side, side):  # noqa: PLR2004
            raise VitquantError(f"the model takes (N, 3, {side}, {side}), not {tuple(images.shape)}: resize the images")
        inputs = images.detach().to(self.predictor.device, torch.float32)
        broken = ~inputs.sum(dim=(1, 2, 3)).isfinite()
        if inputs.device.type == "cpu" and broken.any():  # scales of a whole batch are CPU engines' alone
            inputs = inputs.masked_fill(broken[:, None, None, None], 0)
        if not len(images):  # which some engines do not take
            inputs = inputs.new_zeros(1, 3, side, side)
        outputs = self.predictor.forward(inputs)[: len(images), : len(spec.classes) or None]
        return outputs.masked_fill(broken[:, None], torch.nan).to(images.device)  # a copy, that autograd may keep

    def __copy__(self) -> "Quantized":
        """Another module of the same network, which nothing changes."""
        copied = Quantized.__new__(Quantized)
        nn.Module.__init__(copied)
        copied._folder, copied.predictor = self._folder, self.predictor
        return copied.train(self.training)

    def __deepcopy__(self, _: dict[int, Any]) -> "Quantized":
        """Likewise."""
        return self.__copy__()

    def __reduce_ex__(self, _: Any) -> Any:
        """Refused: it lies in a folder, and much of it is native code."""
        raise VitquantError("a quantized model is not pickled: write it by vitquant.save, and read it by vitquant.load")

    def extra_repr(self) -> str:
        """What it is."""
        spec = self.artifact.spec
        return f"{spec.architecture}, {spec.recipe}, {self.artifact.size_bytes / 1e6:.1f} MB"


def quantize(model: nn.Module, images: Images, recipe: str | Mapping[str, Any] | None = None) -> Quantized:
    """A drop-in for a timm ViT: the same inputs and outputs.

    Args:
        model: made by `timm.create_model`, on the CPU or a GPU, where its drop-in then is; with a classifier, or
            without one (`num_classes=0`), for embeddings. It is left as it is. What torch.compile, DataParallel or
            DistributedDataParallel has made of one is unwrapped.
        images: for calibration, of what the model will see, the first 128: preprocessed as the model takes them, float
            (N, 3, H, W), or batches of those, as a DataLoader gives them; or image files, which are preprocessed by the
            model's own configuration.
        recipe: the name of one of NAMED, on a GPU of NAMED_ON_GPU, or its method and options, as there; by default the
            fastest in 8 bits, by this project's own study, that can take the model here.

    Raises:
        VitquantError: the model is none that timm has, was changed, or is broken; there are no images, broken ones, or
            of another size; no such recipe; or a file cannot be read or written, as on a full disk.
        UnsupportedError: the recipe cannot take the model, or not here.
    """
    model = _unwrapped(model)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    candidates = _candidates(recipe, device)
    folder = TemporaryDirectory(prefix="vitquant-")
    fp32, quantized = Path(folder.name) / "fp32", Path(folder.name) / "quantized"
    with _plain_surroundings():
        chosen = calibration.given(images)
        copy, name, preprocessing = in_memory.copied(model, chosen)
        seen = calibration.prepared(chosen, preprocessing)
        in_memory.compare(model, copy, preprocessing.normalise(torch.from_numpy(seen[:1])), name)
        spec = Spec(
            recipe=BASELINE, method="fp32", options={}, traits=FP32, architecture=name, preprocessing=preprocessing,
            classes=[] if isinstance(copy.head, nn.Identity) else [str(row) for row in range(copy.head.out_features)],
            pooling=copy.pooling,
        )  # fmt: skip

        def fill(directory: Path) -> dict[str, Any]:
            write_weights(directory, copy.state_dict())
            return {}

        artifact.write(fp32, spec, fill)
        reasons = []
        for candidate, options in candidates.items():
            recipes.build(candidate, options, fp32, quantized, seen)
            try:
                found = Quantized(quantized, device, folder)
            except UnsupportedError as reason:
                reasons.append(f"{candidate}: {reason}")
                continue
            files.remove(fp32)
            return found
    raise UnsupportedError("; ".join(reasons))


def save(model: Quantized, path: Path | str) -> None:
    """Write a quantized model as an artifact, a directory that `load` and `recipes.load` read.

    An artifact that is there is replaced, if nothing else lies in it; no other file is ever touched.

    Raises:
        VitquantError: it is no model of `quantize`, something else than an artifact is there, or it cannot be written.
    """
    if not isinstance(model, Quantized):
        raise VitquantError(f"a {type(model).__name__} cannot be saved: quantize it first")
    path = Path(path)
    if model.artifact.path.resolve() in path.resolve().parents:
        raise VitquantError(f"{path} would lie in an artifact: name another folder")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        try:
            open_artifact(path)
        except VitquantError:
            raise VitquantError(f"{path} is there, and is no whole artifact alone: name a new folder") from None
    with _plain_surroundings(), files.atomic(path) as partial:
        shutil.copytree(model.artifact.path, partial)


def load(path: Path | str, device: torch.device | str = "cpu") -> Quantized:
    """Read what `save` wrote, or any artifact of a study.

    Args:
        device: where it runs; a recipe that has no kernels there runs on the CPU.

    Raises:
        VitquantError: it is damaged, or none; or there is no such device.
        UnsupportedError: it cannot run on this machine.
    """
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise VitquantError(f"device: {device!r} is none of PyTorch's: cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise VitquantError("device: cuda, but PyTorch finds no CUDA device: check `nvidia-smi`, or take cpu")
    with _plain_surroundings():
        return Quantized(Path(path), device)


@contextmanager
def _plain_surroundings() -> Iterator[None]:
    """PyTorch's default type and device as the recipes expect them; what the system refuses as one line.

    Raises:
        VitquantError: for any OSError.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
        with nullcontext() if device.type == "cpu" else torch.device("cpu"):
            yield
    except OSError as error:
        raise VitquantError(describe_os_error(error)) from error
    finally:
        if dtype != torch.float32:
            torch.set_default_dtype(dtype)


def _unwrapped(model: Any) -> nn.Module:
    """A model without what has been put around it."""
    if isinstance(model, str):
        raise VitquantError(
            f"{model!r} is a name: give the model itself, timm.create_model({model!r}, pretrained=True)"
        )
    if not isinstance(model, nn.Module):
        raise VitquantError(f"{type(model).__name__} is no model: {in_memory.MAKE}")
    unwrap: Any = unwrap_model  # timm's functions have no types
    inner: nn.Module = unwrap(model)
    if isinstance(inner, Quantized):
        raise VitquantError("the model is quantized already: give the one that it was made of")
    return inner


def _candidates(recipe: str | Mapping[str, Any] | None, device: torch.device) -> dict[str, Recipe]:
    """The recipes to try in turn, by their names."""
    named, fastest = (NAMED_ON_GPU, FASTEST_ON_GPU) if device.type == "cuda" else (NAMED, FASTEST)
    if isinstance(recipe, Mapping):
        if not isinstance(recipe.get("method"), str):
            raise VitquantError(f"recipe: {dict(recipe)} names no method: write it as {NAMED['static-int8']}")
        name, own = recipe["method"].replace("_", "-"), Recipe.model_validate(dict(recipe))
        recipes.check_options(name, own, "recipe")
        return {name: own}
    if not isinstance(recipe, str | None):
        raise VitquantError(f"recipe: give one, by its name or as a mapping: not {type(recipe).__name__}")
    names = fastest if recipe is None else (recipe,)
    if recipe is not None and recipe not in named:
        raise VitquantError(f"recipe: unknown name {recipe!r}: on {device.type} there are {', '.join(named)}")
    return {name: Recipe.model_validate(named[name]) for name in names}
