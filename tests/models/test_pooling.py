"""What the head reads of each family, and that a model without memory is filled to give the same."""

from pathlib import Path

import pytest
import torch

from vitquant.artifact import Artifact, Spec
from vitquant.errors import VitquantError
from vitquant.images import Preprocessing
from vitquant.models import loading, vit
from vitquant.models.vit import ViTClassifier
from vitquant.traits import FP32

SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2}
FAMILIES = {  # timm's name, and whether the head reads a class token
    "deit_tiny_distilled_patch16_224": True,
    "vit_small_patch16_dinov3": True,
    "vit_small_patch16_rope_mixed_224": True,
    "vit_base_patch16_clip_quickgelu_224": True,
    "vit_small_patch14_reg4_dinov2": True,
    "eva02_tiny_patch14_224": False,
    "beit_base_patch16_224": False,
    "vit_base_patch16_siglip_224": False,
    "vit_base_patch16_siglip_gap_224": False,
}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family whose members are made small."""
    create = vit.create_backbone

    def small(name: str, size: int, **options: object) -> object:
        return create(name, size, **SMALL, **options)

    monkeypatch.setattr(vit, "create_backbone", small)
    monkeypatch.setattr(loading, "create_backbone", small)
    return str(request.param)


def test_the_head_reads_the_class_token_and_the_patches_mean_or_the_models_own_pooling(name: str) -> None:
    model, images = ViTClassifier(name, 112, 5).eval(), torch.randn(2, 3, 112, 112)
    tokens = model.backbone.forward_features(images)
    features = model.features(images)
    if FAMILIES[name]:
        prefix = model.backbone.num_prefix_tokens
        assert torch.equal(features, torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1))
    else:
        assert torch.equal(features, model.backbone.forward_head(tokens, pre_logits=True))
    assert torch.equal(model(images), torch.cat([model.head(features), features[:, :64]], dim=1))
    assert features.shape[1] == model.feature_width == model.head.in_features


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_without_memory_computes_what_is_not_stored(name: str, dtype: torch.dtype) -> None:
    model, images = ViTClassifier(name, 112, 5).eval(), torch.randn(1, 3, 112, 112)
    model.backbone.to(dtype)
    preprocessing = Preprocessing(resize=112, crop=112, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3)
    spec = Spec(
        recipe="fp32", method="fp32", options={}, traits=FP32, architecture=name, preprocessing=preprocessing,
        classes=list("abcde"), pooling=model.pooling,
    )  # fmt: skip
    empty = loading.empty_model(Artifact(Path(), spec), dtype)
    empty.load_state_dict(model.state_dict(), assign=True)
    with torch.inference_mode():
        assert torch.equal(loading.CastBackbone(empty)(images), loading.CastBackbone(model)(images))


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("swin_tiny_patch4_window7_224", 225, "data.crop: 225 pixels do not divide into the patches of swin_tiny"),
        ("vit_small_patch16_dinov3", 250, "data.crop: 250 pixels do not divide into the patches of vit_small"),
        ("levit_128s", 8, "levit_128s .*8 "),
    ],
)
def test_a_size_that_a_model_does_not_take_is_one_line(name: str, size: int, said: str) -> None:
    with pytest.raises(VitquantError, match=said) as error:
        vit.check_size(name, size)
    assert "\n" not in str(error.value)
