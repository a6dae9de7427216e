from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CLASSES, SIDE
from recipes.vision_transformer import vit_of_attention_beside_mlp, vit_of_parallel_things
from torch import nn

from vitquant.artifact import Artifact, open_artifact
from vitquant.measure.products import linear_products
from vitquant.models.loading import empty_model


def of_architecture(fp32: Path, name: str, crop: int) -> Artifact:
    """An artifact that says it is of this architecture; its weights are another's."""
    artifact = open_artifact(fp32)
    preprocessing = artifact.spec.preprocessing.model_copy(update={"crop": crop})
    return replace(
        artifact, spec=artifact.spec.model_copy(update={"architecture": name, "preprocessing": preprocessing})
    )


def test_products_of_test_vit(fp32: Path) -> None:
    patches, width, depth, mlp = (SIDE // 16) ** 2, 64, 6, 192
    per_token = 3 * width * width + width * width + 2 * width * mlp
    embedding = patches * 3 * 16 * 16 * width
    assert linear_products(open_artifact(fp32)) == embedding + (patches + 1) * depth * per_token + 2 * width * len(
        CLASSES
    )


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        (vit_of_parallel_things.__name__, SIDE),
        (vit_of_attention_beside_mlp.__name__, 2 * SIDE),  # without a bias, too
        ("vit_small_patch14_reg4_dinov2", 56),
        ("vit_giant_patch14_dinov2", 56),  # SwiGLU
    ],
)
def test_products_are_those_of_each_layer_for_each_of_its_rows(fp32: Path, name: str, crop: int) -> None:
    artifact = of_architecture(fp32, name, crop)
    model = empty_model(artifact)
    patch = model.backbone.patch_embed.proj
    patches = (crop // patch.stride[0]) ** 2
    tokens = patches + model.backbone.num_prefix_tokens
    layers = [layer for layer in model.backbone.modules() if isinstance(layer, nn.Linear)]
    expected = patches * patch.weight.numel() + tokens * sum(layer.weight.numel() for layer in layers)
    assert linear_products(artifact) == expected + model.head.weight.numel()
