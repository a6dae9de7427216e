"""The classifier that an artifact describes, with its weights or without."""

import torch
from torch import Tensor, nn

from vitquant.artifact import Artifact, read_weights
from vitquant.models.vit import ViTClassifier


def load_model(artifact: Artifact) -> ViTClassifier:
    """The model of an artifact whose weights are floating point, in evaluation mode."""
    model = empty_model(artifact)
    model.load_state_dict(read_weights(artifact.path), assign=True)
    return model


def empty_model(artifact: Artifact) -> ViTClassifier:
    """The artifact's architecture in evaluation mode, its weights without memory (on the meta device)."""
    spec = artifact.spec
    with torch.device("meta"):
        model = ViTClassifier(spec.architecture, spec.preprocessing.crop, len(spec.classes))
    return model.requires_grad_(False).eval()


class CastBackbone(nn.Module):
    """A classifier whose backbone runs in the type of its weights, and whose head runs in FP32."""

    def __init__(self, model: ViTClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 images (N, 3, H, W) to float32 logits (N, C)."""
        dtype = self.model.backbone.cls_token.dtype
        logits: Tensor = self.model.head(self.model.features(images.to(dtype)).float())
        return logits


def cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of a classifier, those of its backbone in `dtype`."""
    return {name: tensor if name.startswith("head.") else tensor.to(dtype) for name, tensor in weights.items()}
