from functools import partial
from itertools import product
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import Attention, DiffAttention, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, ResPostBlock
from torch import Tensor, nn

from vitquant import artifact
from vitquant.errors import UnsupportedError
from vitquant.models.loading import load_model
from vitquant.models.vit import ViTClassifier
from vitquant.quantization import rounding, smoothing
from vitquant.quantization.observe import Inputs, observe
from vitquant.quantization.smoothing import STRENGTHS, Smoothing

WIDTH, OUTPUTS = 48, 32


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(WIDTH, OUTPUTS).requires_grad_(False)


@pytest.fixture
def tokens() -> Tensor:
    """Tokens of six images with two outlier channels, one of them far from zero, (images, tokens, K)."""
    tokens = random(6, 17, WIDTH, seed=1)
    tokens[:, :, 3] *= 60
    tokens[:, :, 20] += 40
    return tokens


@pytest.fixture
def seen(tokens: Tensor) -> Inputs:
    return observe(nn.Sequential(nn.Linear(WIDTH, OUTPUTS)), tokens.split(4), ["0"], Inputs)["0"]


def arbitrary(width: int, seed: int) -> Smoothing:
    return Smoothing(3 * random(width, seed=seed), random(width, seed=seed + 1).exp(), 0.5, 1.0)


def load(fp32: Path) -> tuple[ViTClassifier, Tensor]:
    return load_model(artifact.open_artifact(fp32)), random(3, 3, 64, 64)


@pytest.mark.parametrize("layers", [("attn.qkv",), ("attn.proj",), ("mlp.fc1",), ("attn.qkv", "attn.proj", "mlp.fc1")])
def test_folding_leaves_the_function_as_it_was(fp32: Path, layers: tuple[str, ...]) -> None:
    model, images = load(fp32)
    expected, weights = model(images), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = [f"backbone.blocks.{block}.{layer}" for block, layer in product(range(6), layers)]
    smoothing.fold(model, {name: arbitrary(64, index) for index, name in enumerate(names)})
    assert all(not torch.allclose(model.state_dict()[f"{name}.weight"], weights[f"{name}.weight"]) for name in names)
    assert (model(images) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_folded_layer_sees_smoothed_inputs(fp32: Path) -> None:
    model, images = load(fp32)
    names = [f"backbone.blocks.2.{layer}" for layer in ("attn.qkv", "attn.proj", "mlp.fc1")]
    before = observe(model, [images], names, Inputs)
    smoothings = {name: arbitrary(64, index) for index, name in enumerate(names)}
    smoothing.fold(model, smoothings)
    after = observe(model, [images], names, Inputs)
    for name in names:
        smoothed = (before[name].sample - smoothings[name].centre) / smoothings[name].scale
        assert torch.allclose(after[name].sample, smoothed, atol=1e-4 * float(smoothed.abs().max()))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_rewritten_takes_smoothed_inputs(tokens: Tensor, bias: bool) -> None:
    layer, own = nn.Linear(WIDTH, OUTPUTS, bias=bias).requires_grad_(False), arbitrary(WIDTH, 5)
    expected = layer(tokens)
    smoothing.rewrite_inputs(layer, own)
    assert torch.allclose(layer((tokens - own.centre) / own.scale), expected, atol=1e-4 * float(expected.abs().max()))


def test_the_second_moment_of_smoothed_inputs(seen: Inputs, tokens: Tensor) -> None:
    own = arbitrary(WIDTH, 5)
    smoothed = ((tokens - own.centre) / own.scale).double().flatten(0, 1)
    direct = smoothed.T @ smoothed
    assert torch.allclose(own.inputs(seen), direct, atol=1e-5 * float(direct.abs().max()))


def noise(layer: nn.Linear, tokens: Tensor, own: Smoothing | None) -> float:
    """The error in the layer's output after rounding weights and each token to 8 bits."""
    weight = layer.weight
    inputs = tokens
    if own:
        inputs, weight = (tokens - own.centre) / own.scale, weight * own.scale
    step = inputs.abs().amax(dim=2, keepdim=True) / 127
    scale = rounding.scales(weight)
    rounded = rounding.nearest(weight, scale) * scale[:, None]
    error = (inputs / step).round() * step @ rounded.T - inputs @ weight.T
    return float(error.square().mean())


def test_what_is_chosen_lowers_the_noise_of_outlier_channels(layer: nn.Linear, seen: Inputs, tokens: Tensor) -> None:
    own = smoothing.choose(seen, layer, per_token=True)
    assert own.strength in STRENGTHS
    assert (own.scale > 0).all()
    assert noise(layer, tokens, own) < 0.2 * noise(layer, tokens, None)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_channels_that_never_change_are_smoothed_and_rounded(layer: nn.Linear, value: float) -> None:
    tokens = 0.1 * random(6, 17, WIDTH, seed=1)
    tokens[:, :, :5] = value
    tokens[:, :, 20] += 1000
    own_seen = observe(nn.Sequential(nn.Linear(WIDTH, OUTPUTS)), tokens.split(4), ["0"], Inputs)["0"]
    own = smoothing.choose(own_seen, layer, per_token=True)
    smoothed, weight = (tokens - own.centre) / own.scale, layer.weight * own.scale
    scale = rounding.scales(weight)
    rounded = rounding.gptq(weight, scale, own.inputs(own_seen)) * scale[:, None]
    expected = smoothed @ weight.T
    assert torch.linalg.norm(smoothed @ rounded.T - expected) < 0.02 * torch.linalg.norm(expected)


def test_the_centre_is_the_middle_of_the_range(layer: nn.Linear, seen: Inputs, tokens: Tensor) -> None:
    flat = tokens.flatten(0, 1)
    own = smoothing.choose(seen, layer, per_token=False)
    assert torch.allclose(own.centre, (flat.amax(0) + flat.amin(0)) / 2)


class Model(nn.Module):
    def __init__(self, name: str, **options: object) -> None:
        super().__init__()
        with torch.device("meta"):
            self.backbone = timm.create_model(name, num_classes=0, **options)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "deit3_small_patch16_224", "vit_small_patch14_dinov2"])
def test_plain_blocks_are_taken(name: str) -> None:
    smoothing.check_blocks(Model(name))


class Gated(Attention):
    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, gated=True, **options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"qk_norm": True}, "attn.q_norm is of type LayerNorm"),
        ({"mlp_layer": SwiGLU}, "mlp.fc1 is missing"),
        ({"qkv_bias": False}, "attn.qkv has no bias"),
        ({"act_layer": nn.SiLU}, "mlp.act is of type SiLU"),
        ({"act_layer": "gelu_tanh"}, "mlp.act is of type GELUTanh"),
        ({"act_layer": partial(nn.GELU, approximate="tanh")}, "mlp.act is GELU's tanh approximation"),
        ({"scale_mlp_norm": True}, "mlp.norm is of type LayerNorm"),
        ({"scale_attn_norm": True}, "attn.norm is of type LayerNorm"),
        ({"attn_layer": DiffAttention}, "attn is of type DiffAttention"),
        ({"attn_layer": Gated}, "attn has a gate"),
        ({"block_fn": ResPostBlock}, "it is of type ResPostBlock"),
        ({"block_fn": ParallelThingsBlock}, "it is of type ParallelThingsBlock"),
        ({"block_fn": ParallelScalingBlock}, "it is of type ParallelScalingBlock"),
    ],
    ids=str,
)
def test_other_blocks_are_refused_and_their_oddity_named(options: dict, why: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"block 0 of this model, a \w+, is another: {why}$"):
        smoothing.check_blocks(Model("test_vit", **options))


def test_the_block_refused_is_named() -> None:
    model = Model("test_vit")
    model.backbone.blocks[4].mlp.act = nn.ReLU()
    with pytest.raises(UnsupportedError, match="block 4"):
        smoothing.check_blocks(model)
