from pathlib import Path

import pytest
import torch

from vitquant.errors import VitquantError
from vitquant.models import weights
from vitquant.models.vit import ViTClassifier, preprocessing
from vitquant.params import Params, RandomModel


def test_the_head_sees_the_class_token_and_the_mean_patch_token() -> None:
    model = ViTClassifier("test_vit", 64, 5).eval()
    images = torch.randn(2, 3, 64, 64)
    tokens = model.backbone.forward_features(images)
    assert tokens.shape == (2, 1 + 4 * 4, 64)
    features = model.features(images)
    assert torch.equal(features[:, :64], tokens[:, 0])
    assert torch.allclose(features[:, 64:], tokens[:, 1:].mean(dim=1))
    assert model(images).shape == (2, 5)


def test_normalisation_is_the_architectures_own(params: Params) -> None:
    for name, mean, std in (
        ("vit_small_patch14_dinov2", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("test_vit", [0.5] * 3, [0.5] * 3),
    ):
        found = preprocessing(name, params.data.model_copy(update={"resize": 256, "crop": 224}))
        assert (found.mean, found.std) == (mean, std)


def test_random_weights_follow_the_seed() -> None:
    models = [ViTClassifier("test_vit", 64, 5) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        weights.load_into(model, RandomModel(source="random", name="test_vit", seed=seed), Path("unused"))
    first, again, other = (model.backbone.blocks[0].attn.qkv.weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["vit_enormous", "resnet18"])
def test_a_name_that_is_no_vit(name: str) -> None:
    with pytest.raises(VitquantError, match=f"model.name: .*{name}"):
        ViTClassifier(name, 64, 5)


def test_weights_that_do_not_fit_are_named() -> None:
    expected = ViTClassifier("test_vit", 64, 5).backbone.state_dict()
    spoiled = dict(expected)
    del spoiled["norm.weight"]
    spoiled["norm.gamma"] = torch.ones(64)
    spoiled["cls_token"] = torch.ones(1, 1, 32)
    spoiled["norm.bias"] = torch.full((64,), float("nan"))
    with pytest.raises(VitquantError) as error:
        weights._check(spoiled, expected, Path("weights.onnx"))
    for problem in (
        "weights.onnx does not fit the model",
        "norm.weight is missing",
        "norm.gamma is unknown",
        "cls_token is (1, 1, 32), expected (1, 1, 64)",
        "norm.bias holds NaN or infinity",
    ):
        assert problem in str(error.value)
