from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import draw_image
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import InterpolationMode, Resize

from vitquant.errors import VitquantError
from vitquant.images import Preprocessing
from vitquant.models import weights
from vitquant.models.vit import ViTClassifier, is_plain, preprocessing
from vitquant.params import Images, Params, RandomModel

CONFIGURATION = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
SQUASHED = "eva_large_patch14_336.in22k_ft_in1k"


@pytest.fixture
def auto(params: Params) -> Images:
    """All as the model's configuration says."""
    return params.data.model_copy(update={"resize": "auto", "crop": "auto", "interpolation": "auto"})


def timms(name: str, **changes: object) -> Any:
    """The transform that timm makes for evaluating `name`; with `normalize: False` it gives uint8."""
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    return create_transform(**(config | changes))


def test_the_head_sees_the_class_token_and_the_mean_patch_token_and_the_former_is_given_too() -> None:
    model = ViTClassifier("test_vit", 64, 5).eval()
    images = torch.randn(2, 3, 64, 64)
    tokens = model.backbone.forward_features(images)
    assert tokens.shape == (2, 1 + 4 * 4, 64)
    features = model.features(images)
    assert torch.equal(features[:, :64], tokens[:, 0])
    assert torch.allclose(features[:, 64:], tokens[:, 1:].mean(dim=1))
    assert torch.equal(model(images), torch.cat([model.head(features), tokens[:, 0]], dim=1))


def test_normalisation_is_the_architectures_own(params: Params) -> None:
    for name, mean, std in (
        ("vit_small_patch14_dinov2", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("test_vit", [0.5] * 3, [0.5] * 3),
    ):
        found = preprocessing(name, params.data.model_copy(update={"resize": 256, "crop": 224}))
        assert (found.mean, found.std) == (mean, std)


def test_every_published_vit_gets_timms_own_preprocessing(auto: Images) -> None:
    """One of those with the same configuration: it is all that either reads."""
    modes: Counter[str] = Counter()
    published = {
        str([getattr(timm.get_pretrained_cfg(name), key) for key in CONFIGURATION]): name
        for name in timm.list_models(module="vision_transformer", pretrained=True)
    }
    for name in published.values():
        own = preprocessing(name, auto)
        resize, crop, _, normalise = timms(name).transforms
        assert isinstance(resize, Resize), name  # else it is for the border, which no configuration has
        assert (resize.size, own.crop_mode) in ((own.resize, "center"), ((own.resize, own.resize), "squash")), name
        assert crop.size == (own.crop, own.crop), name
        assert resize.interpolation == InterpolationMode(own.interpolation), name
        assert torch.equal(torch.tensor([own.mean, own.std]), torch.stack([normalise.mean, normalise.std])), name
        modes[own.crop_mode] += 1
    assert modes["center"] > 10
    assert modes["squash"] > 1


@pytest.mark.parametrize(
    ("name", "changes", "size", "error"),
    [
        ("vit_base_patch16_224", {}, (301, 301), 1),  # of rounding: only the crop is computed
        ("vit_small_patch14_dinov2", {}, (301, 301), 1),
        (SQUASHED, {}, (301, 403), 0),
        ("vit_base_patch16_clip_384.laion2b_ft_in1k", {}, (403, 301), 0),  # and 5 % cut off
        ("vit_base_patch16_224", {"crop_mode": "squash", "crop_pct": 0.95}, (301, 403), 0),  # 5.5 pixels a side
        ("vit_base_patch16_224", {"crop_mode": "border", "crop_pct": 1.0}, (301, 403), 0),
        ("vit_base_patch16_224", {"crop_mode": "border", "crop_pct": 0.9}, (403, 301), 0),
        ("vit_base_patch16_clip_224.openai", {"crop_mode": "border", "crop_pct": 0.875}, (97, 201), 0),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_pixels_are_timms(
    auto: Images, name: str, changes: dict, size: tuple[int, int], error: int, mode: str
) -> None:
    own = preprocessing(name, auto)
    if changes:
        resize = int(own.crop / changes["crop_pct"])
        own = own.model_copy(update={"resize": resize, "crop_mode": changes["crop_mode"]})
    image = draw_image("disc", 1).resize(size, Image.Resampling.BICUBIC).convert(mode)
    expected = timms(name, **changes, normalize=False)(image.convert("RGB")).permute(1, 2, 0).numpy()
    assert np.abs(own.pixels(image).astype(int) - expected).max() <= error


def test_a_size_of_ones_own_is_the_shorter_sides(auto: Images) -> None:
    def found(**sizes: int) -> tuple[int, int, str]:
        own = preprocessing(SQUASHED, auto.model_copy(update=sizes))
        return own.resize, own.crop, own.crop_mode

    assert found() == (336, 336, "squash")
    assert found(crop=224) == (224, 224, "squash")
    assert found(resize=400) == (400, 336, "center")
    assert found(resize=400, crop=224) == (400, 224, "center")


def test_preprocessing_written_without_a_crop_mode_is_of_the_centre(auto: Images) -> None:
    own = preprocessing("test_vit", auto)
    assert Preprocessing.model_validate(own.model_dump(exclude={"crop_mode"})) == own
    assert own.crop_mode == "center"


def test_random_weights_follow_the_seed() -> None:
    models = [ViTClassifier("test_vit", 64, 5) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        weights.load_into(model, RandomModel(source="random", name="test_vit", seed=seed), Path("unused"))
    first, again, other = (model.backbone.blocks[0].attn.qkv.weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


LISTS = "`timm.list_models(module=…)` lists those of the modules vision_transformer, deit, eva, "
NO_NAMES = {
    "vit_bas_patch16_224": "timm has no ViT 'vit_bas_patch16_224': did you mean vit_base_patch16_224, vit_base",
    "dinov2": "timm has no ViT 'dinov2': did you mean vit_base_patch14_dinov2, vit_giant_patch14_dinov2, vit_large",
    "qqq": f"timm has no ViT 'qqq': {LISTS}",
    "resnet18": f"'resnet18' is of timm's module resnet: take a transformer for images: {LISTS}",
    "vit_base_resnet50_384": "timm has renamed 'vit_base_resnet50_384': write vit_base_r50_s16_384.orig_in21k_ft_in1k",
    "vit_base_patch16_224_in21k": "timm has renamed 'vit_base_patch16_224_in21k': write "
    "vit_base_patch16_224.augreg_in21k",
    "vit_small_patch16_224_dino": "timm has renamed 'vit_small_patch16_224_dino': write vit_small_patch16_224.dino",
    "vit_base_patch16_224.augreg_in22k": "timm has no weights 'augreg_in22k' of vit_base_patch16_224: it has "
    "augreg_in21k, ",
    "test_vit.mine": "timm has no weights 'mine' of test_vit: it has r160_in1k",
    "test_vit.": "timm has no weights '' of test_vit: it has r160_in1k",
}


@pytest.mark.parametrize(("name", "says"), NO_NAMES.items())
def test_a_name_that_is_no_vit_says_which_is_near(auto: Images, name: str, says: str) -> None:
    """The same wherever it is used: as a model, and by `vitquant check` and `prepare`."""
    messages = []
    for use in (lambda: ViTClassifier(name, 64, 5), lambda: preprocessing(name, auto)):
        with pytest.raises(VitquantError) as error:
            use()
        messages.append(str(error.value))
    assert messages[1] == f"model.name: {messages[0]}"
    assert messages[0].startswith(says)
    assert "\n" not in messages[0]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("vit_small_patch14_dinov2", True),
        ("deit_tiny_distilled_patch16_224", True),
        ("vit_base_patch16_siglip_224", False),  # pools by attention
        ("vit_small_patch16_dinov3", False),
    ],
)
def test_plain_is_what_every_engine_is_known_to_take(name: str, is_one: bool) -> None:
    assert is_plain(name, 224) == is_one


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
