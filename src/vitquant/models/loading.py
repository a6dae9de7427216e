"""The classifier that an artifact describes, with its weights or without."""

from collections.abc import Mapping

import torch
from timm.models._manipulate import reinit_non_persistent_buffers
from timm.models.beit import Beit
from timm.models.eva import Eva
from torch import Tensor, nn

from vitquant.artifact import WEIGHTS_FILE, Artifact
from vitquant.errors import MAKE_AGAIN, VitquantError
from vitquant.models.vit import ViTClassifier, create_backbone
from vitquant.predictor import read_weights

SHOWN = 5  # problems of an artifact


def load_model(artifact: Artifact, dtype: torch.dtype = torch.float32) -> ViTClassifier:
    """The model of an artifact whose weights are floating point, those of its backbone `dtype`, in evaluation mode."""
    return fill(empty_model(artifact, dtype), artifact)


def fill(model: ViTClassifier, artifact: Artifact) -> ViTClassifier:
    """Give a model without memory the artifact's tensors, which must be its own by name, shape and type.

    Raises:
        VitquantError: one is not.
    """
    tensors = read_weights(artifact.path)
    check_tensors(artifact, tensors, model.state_dict())
    model.load_state_dict(tensors, assign=True)
    return model


def check_tensors(artifact: Artifact, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """See that tensors are those expected, by name, shape and type: what follows may hand on their addresses.

    Raises:
        VitquantError: one is missing, unknown, of another shape or of another type.
    """
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    for name, tensor in tensors.items():
        found = _described(tensor)
        if name not in expected:
            problems.append(f"{name} is unknown")
        elif found != _described(expected[name]):
            problems.append(f"{name} is {found}, expected {_described(expected[name])}")
    if problems:
        shown = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        raise VitquantError(
            f"{artifact.path / WEIGHTS_FILE} does not fit {artifact.spec.architecture}: {shown}: {MAKE_AGAIN}"
        )


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def empty_model(artifact: Artifact, dtype: torch.dtype = torch.float32) -> ViTClassifier:
    """The artifact's architecture in evaluation mode, its weights without memory (on the meta device).

    Args:
        dtype: of the backbone's weights. A backbone that is cast later may compute its buffers again, from weights that
            have no memory.
    """
    spec = artifact.spec
    with torch.device("meta"):
        model = ViTClassifier(spec.architecture, spec.preprocessing.crop, len(spec.classes), spec.pooling)
    model.backbone.to(dtype)
    _compute_buffers(model, spec.architecture)
    return model.requires_grad_(False).eval()


def _compute_buffers(model: ViTClassifier, architecture: str) -> None:
    """Give a model without memory those buffers that are computed, not stored: rotary tables, indices of positions."""
    computed = [
        (path, name, buffer)
        for path, module in model.backbone.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    ]
    if not computed:
        return
    # at once, where that takes none of the weights, which have no memory yet; else as a whole model has them
    at_once = isinstance(model.backbone, Eva | Beit) and not getattr(model.backbone, "rope_mixed", False)
    whole = None if at_once else create_backbone(architecture, model.image_size)
    for path, name, buffer in computed:
        found = whole.get_submodule(path).get_buffer(name) if whole else torch.empty_like(buffer, device="cpu")
        setattr(model.backbone.get_submodule(path), name, found.to(buffer.dtype))
    if at_once:
        reinit_non_persistent_buffers(model.backbone)


class CastBackbone(nn.Module):
    """A classifier whose backbone runs in the type of its weights, and whose head runs in FP32."""

    def __init__(self, model: ViTClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to what the classifier gives, float32."""
        dtype = next(self.model.backbone.parameters()).dtype
        return self.model.outputs(self.model.features(images.to(dtype)).float())


def cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of a classifier, those of its backbone in `dtype`; what it counts in integers stays so."""
    kept = {name for name, tensor in weights.items() if name.startswith("head.") or not tensor.is_floating_point()}
    return {name: tensor if name in kept else tensor.to(dtype) for name, tensor in weights.items()}
