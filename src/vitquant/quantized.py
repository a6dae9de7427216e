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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from vitquant import artifact, files, recipes
from vitquant.artifact import Artifact, Spec, open_artifact
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.images import ImageSource, Preprocessing
from vitquant.models import biases, own_head, pooling, weights
from vitquant.models.vit import ViTClassifier
from vitquant.params import BASELINE, Recipe
from vitquant.predictor import write_weights
from vitquant.traits import FP32

MOST = 128  # calibration images, as in the study
CLOSE = 1e-3  # of the largest output: what two ways to compute the same in FP32 stay below
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
Images = Tensor | NDArray[np.uint8] | Sequence[ImageSource] | Iterable[Any]


class Quantized(nn.Module):
    """A quantized model: inputs, float32 (N, 3, H, W), to what the model gives, float32 (N, C), for inference.

    It has no parameters that PyTorch sees, and stays on its device.

    Args:
        path: of the artifact.
        device: as `recipes.load`.
        folder: what `path` lies in, deleted with this object.
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
        """Preprocessed images, float32 (N, 3, H, W), on any device, to logits or embeddings, float32 (N, C), there.

        Raises:
            VitquantError: images of another shape.
        """
        spec, side = self.artifact.spec, self.artifact.spec.preprocessing.crop
        if images.ndim != 4 or images.shape[1:] != (3, side, side):  # noqa: PLR2004
            raise VitquantError(f"the model takes (N, 3, {side}, {side}), not {tuple(images.shape)}: resize the images")
        outputs = self.predictor.forward(images.detach().to(self.predictor.device, torch.float32))
        return outputs[:, : len(spec.classes) or None].to(images.device).clone()  # autograd may keep this one

    def extra_repr(self) -> str:
        """What it is."""
        spec = self.artifact.spec
        return f"{spec.architecture}, {spec.recipe}, {self.artifact.size_bytes / 1e6:.1f} MB"


def quantize(model: nn.Module, images: Images, recipe: str | Mapping[str, Any] | None = None) -> Quantized:
    """A drop-in for a timm ViT: the same inputs and outputs.

    Args:
        model: made by `timm.create_model`, on the CPU or a GPU, where its drop-in then is; with a classifier, or
            without one (`num_classes=0`), for embeddings. It is left as it is.
        images: for calibration, of what the model will see, the first 128: preprocessed as the model takes them, float
            (N, 3, H, W), or batches of those, as a DataLoader gives them; or image files, which are preprocessed by the
            model's own configuration.
        recipe: the name of one in params.yaml, or its method and options, as there; by default the fastest in 8 bits,
            by this project's own study, that can take the model here.

    Raises:
        VitquantError: the model is none that timm has, or was changed; there are no images, or of another size; or no
            such recipe.
        UnsupportedError: the recipe cannot take the model, or not here.
    """
    device = next(model.parameters()).device
    folder = TemporaryDirectory(prefix="vitquant-")
    fp32, quantized = Path(folder.name) / "fp32", Path(folder.name) / "quantized"
    copy, name, preprocessing = _copy(model)
    calibration = _calibration(images, preprocessing)
    _compare(model, copy, preprocessing.normalise(torch.from_numpy(calibration[:1])), name)
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
    for candidate, options in _candidates(recipe, device).items():
        recipes.build(candidate, options, fp32, quantized, calibration)
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
        VitquantError: it is no model of `quantize`, or something else than an artifact is there.
        OSError: it cannot be written.
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
    with files.atomic(path) as partial:
        shutil.copytree(model.artifact.path, partial)


def load(path: Path | str, device: torch.device | str = "cpu") -> Quantized:
    """Read what `save` wrote, or any artifact of a study.

    Raises:
        VitquantError: it is damaged, or none.
        UnsupportedError: it cannot run on this machine.
    """
    return Quantized(Path(path), torch.device(device))


def _candidates(recipe: str | Mapping[str, Any] | None, device: torch.device) -> dict[str, Recipe]:
    """The recipes to try in turn, by their names."""
    named, fastest = (NAMED_ON_GPU, FASTEST_ON_GPU) if device.type == "cuda" else (NAMED, FASTEST)
    if isinstance(recipe, Mapping):
        if not isinstance(recipe.get("method"), str):
            raise VitquantError(f"recipe: {dict(recipe)} names no method: write it as in params.yaml")
        return {recipe["method"].replace("_", "-"): Recipe.model_validate(dict(recipe))}
    names = fastest if recipe is None else (recipe,)
    if recipe is not None and recipe not in named:
        raise VitquantError(f"recipe: unknown name {recipe!r}: on {device.type} there are {', '.join(named)}")
    return {name: Recipe.model_validate(named[name]) for name in names}


def _copy(model: nn.Module) -> tuple[ViTClassifier, str, Preprocessing]:
    """The model as the recipes know it, its timm name, and its configuration's preprocessing."""
    config_of: Any = resolve_model_data_config  # timm's functions have no types
    config = config_of(model)
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if not name or not size or size[0] != size[1]:
        raise VitquantError(
            f"a {type(model).__name__} is no ViT of timm's, for square images: make it by timm.create_model, and load "
            "your weights into that"
        )
    copy = ViTClassifier(name, size[0], 0).requires_grad_(False).eval()
    copy.pooling = pooling.of_embedding(model)
    expected = copy.backbone.state_dict()
    state = {key: tensor.detach().float().cpu() for key, tensor in model.state_dict().items()}
    backbone, classifier = weights.parts(biases.join_weights(state), expected.keys())
    if {key: tensor.shape for key, tensor in backbone.items()} != {key: each.shape for key, each in expected.items()}:
        raise VitquantError(f"the model is not {name} as timm.create_model({name!r}) makes it: its layers are others")
    copy.backbone.load_state_dict(backbone)
    if classifier:
        count = len(next(iter(classifier.values())))
        own_head.attach(copy, classifier, [str(row) for row in range(count)], None)
    crop = int(size[0])
    preprocessing = Preprocessing(
        resize=max(crop, int(crop / config["crop_pct"])), crop=crop, crop_mode=config.get("crop_mode", "center"),
        interpolation=config["interpolation"], mean=list(config["mean"]), std=list(config["std"]),
    )  # fmt: skip
    return copy, name, preprocessing


def _calibration(images: Images, preprocessing: Preprocessing) -> NDArray[Any]:
    """The first images as recipes take them: uint8 (N, H, W, 3), or preprocessed, float32 (N, 3, H, W)."""
    side = preprocessing.crop
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        return preprocessing.batch(images[:MOST], "the model")
    if isinstance(images, list | tuple) and images and not isinstance(images[0], Tensor | list | tuple):
        return preprocessing.batch(images[:MOST], "the model")
    batches: list[Tensor] = []
    for batch in [images] if isinstance(images, Tensor) else images:
        inputs = batch[0] if isinstance(batch, list | tuple) else batch  # of a DataLoader: images and labels
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.shape[1:] != (3, side, side):
            found = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise VitquantError(
                f"calibration images must be float (N, 3, {side}, {side}), as the model takes them, or image files: "
                f"not {found}"
            )
        batches.append(inputs.detach().float().cpu())
        if sum(map(len, batches)) >= MOST:
            break
    if not sum(map(len, batches)):
        raise VitquantError("there are no calibration images: give about 128 of those that the model will see")
    return torch.cat(batches)[:MOST].contiguous().numpy()


def _compare(model: nn.Module, copy: ViTClassifier, images: Tensor, name: str) -> None:
    """See that the copy computes what the model does, whatever options that was made with."""
    training = model.training
    try:
        with torch.inference_mode():
            first = next(model.parameters())
            theirs = model.eval()(images.to(first.device, first.dtype)).float().cpu()
            ours = copy(images)
    finally:
        model.train(training)
    width = 0 if isinstance(copy.head, nn.Identity) else copy.head.out_features
    ours = ours[:, : width or None]
    close = CLOSE if first.dtype == torch.float32 else 0.05
    if ours.shape != theirs.shape or not (ours - theirs).abs().max() <= close * theirs.abs().max():
        raise VitquantError(
            f"the model does not compute what timm.create_model({name!r}) does with its weights: it was made with "
            "other options, which a recipe would not know"
        )
