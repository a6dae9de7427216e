"""vitquant-int8 and dynamic-int8-smooth, which share smoothing and GPTQ."""

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from vitquant import artifact, recipes
from vitquant.errors import UnsupportedError
from vitquant.models.loading import load_model
from vitquant.models.vit import ViTClassifier
from vitquant.params import Recipe
from vitquant.quantization import rounding, smoothing
from vitquant.quantization.layers import SmoothedGELU
from vitquant.quantization.smoothing import Smoothing
from vitquant.recipes import vitquant_int8
from vitquant.recipes.vitquant_int8 import kernels
from vitquant.recipes.vitquant_int8.kernels import largest_weight_sum

RECIPE = Recipe(method="vitquant_int8")


@pytest.fixture(scope="module", params=["vitquant-int8", "dynamic-int8-smooth"])
def int8(request: pytest.FixtureRequest, built) -> Path:
    return built(request.param)


@pytest.fixture(scope="module")
def smoothed(int8: Path, fp32: Path, calibration) -> tuple[ViTClassifier, dict[str, Smoothing]]:
    """The FP32 model after the recipe's smoothing, and the smoothings."""
    opened = artifact.open_artifact(fp32)
    model, images = load_model(opened), opened.spec.preprocessing.normalise(torch.from_numpy(calibration))
    return model, smoothing.smooth(model, images, per_token=int8.name == "vitquant-int8")[0]


def test_smoothing_leaves_the_fp32_function_as_it_was(smoothed, fp32: Path, prepared) -> None:
    model, chosen = smoothed
    model = copy.deepcopy(model)
    for index, block in enumerate(model.backbone.blocks):
        fc2 = chosen[f"backbone.blocks.{index}.mlp.fc2"]
        block.mlp.act = SmoothedGELU(fc2.centre, 1 / fc2.scale)
    reference = recipes.load(fp32)
    inputs = reference.preprocess(prepared.images("val")[:6])
    with torch.inference_mode():
        assert (model(inputs) - reference.forward(inputs)).abs().max() < 1e-4


def test_scales_are_those_of_the_definition(int8: Path, smoothed) -> None:
    """Of the smoothed FP32 weights: the largest magnitude of each output channel over 127."""
    per_token = int8.name == "vitquant-int8"
    model, _ = smoothed
    tensors = artifact.read_weights(int8)
    for index, block in enumerate(model.backbone.blocks):
        for layer in smoothing.LAYERS:
            name, weight = f"backbone.blocks.{index}.{layer}", block.get_submodule(layer).weight.clone()
            if per_token and layer == "attn.qkv":
                weight[: len(weight) // 3] *= (len(weight) // 3 // block.attn.num_heads) ** -0.5  # attention's own
            if per_token and layer in ("attn.proj", "mlp.fc2"):
                scale = getattr(block, "ls1" if layer == "attn.proj" else "ls2")
                weight *= scale.gamma[:, None] if hasattr(scale, "gamma") else 1  # LayerScale
            wider = tensors[f"{name}.scale"] / (weight.abs().amax(dim=1) / 127)
            tried = rounding.WIDER if per_token and largest_weight_sum() else (1.0,)
            assert torch.isclose(wider[:, None], torch.tensor(tried)).any(dim=1).all()
            restored = tensors[f"{name}.weight"] * tensors[f"{name}.scale"][:, None]
            assert torch.linalg.norm(restored - weight) < 0.05 * torch.linalg.norm(weight)


def test_weights_are_int8_and_the_rest_is_float(int8: Path) -> None:
    tensors = artifact.read_weights(int8)
    for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        name = f"backbone.blocks.1.{layer}"
        assert tensors[f"{name}.weight"].dtype == torch.int8
        assert tensors[f"{name}.weight"].abs().max() <= 127
        assert tensors[f"{name}.scale"].shape == tensors[f"{name}.bias"].shape
    assert tensors["head.weight"].dtype == tensors["backbone.pos_embed"].dtype == torch.float32


def without_vnni(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    patch.setattr(kernels, "FLAGS", (*kernels.FLAGS, "-O1"))  # compiles faster


def test_without_vnni_it_is_close_to_fp32(
    fp32: Path, calibration, prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_vnni(monkeypatch)
    recipes.build("r", RECIPE, fp32, tmp_path / "r", calibration)
    for name, tensor in artifact.read_weights(tmp_path / "r").items():
        if tensor.dtype == torch.int8:
            assert rounding.sums_of_four(tensor).max() <= largest_weight_sum(), name
    images = prepared.images("val")[:8]
    reference = recipes.load(fp32)(images)
    assert np.abs(recipes.load(tmp_path / "r")(images) - reference).max() < 0.1 * np.abs(reference).max()


def test_without_vnni_weights_that_would_overflow_are_refused(
    fp32: Path, calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vitquant_int8, "largest_weight_sum", lambda: None)
        recipes.build("r", RECIPE, fp32, tmp_path / "r", calibration)
    without_vnni(monkeypatch)
    with pytest.raises(UnsupportedError, match="made on a CPU with VNNI, which this one lacks: quantize again here"):
        recipes.load(tmp_path / "r")


@pytest.mark.parametrize(("width", "heads"), [(144, 2), (120, 5)])  # depths of 72 and 24
def test_heads_of_other_depths(width: int, heads: int) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("test_vit", num_classes=0, img_size=64, embed_dim=width, num_heads=heads, depth=2)
    backbone.requires_grad_(False).eval()
    tokens = torch.randn(2, 17, width)
    expected = backbone.blocks(tokens)
    assert (int8_blocks(backbone)(tokens) - expected).abs().max() < 0.05 * (expected - tokens).abs().max()


@pytest.mark.parametrize("gap", [0.0, 6.0, 8.0, 10.0])
def test_attention_adds_nothing_to_the_error_of_quantized_layers(gap: float) -> None:
    """At 518 pixels with four registers, one of which takes most of the attention in every block, and gives nothing."""
    torch.manual_seed(0)
    name, width, side = "vit_small_patch14_reg4_dinov2", 96, 518
    backbone = timm.create_model(
        name, num_classes=0, img_size=side, depth=3, embed_dim=width, num_heads=3, init_values=0
    )
    backbone.requires_grad_(False).eval()
    tokens = torch.randn(1, (side // 14) ** 2 + 5, width)
    make_sink(backbone, tokens, gap)
    expected = copy.deepcopy(backbone.blocks).double()(tokens.double())
    tensors, shapes = quantized(backbone)
    with_exact_attention = as_quantized(backbone, tensors)(tokens)
    error = torch.linalg.norm(vitquant_int8.Int8Blocks(tensors, shapes)(tokens) - expected)
    assert error < 1.03 * torch.linalg.norm(with_exact_attention - expected)


def make_sink(backbone: nn.Module, tokens: Tensor, gap: float) -> None:
    """A first register whose key is `gap` above the others', as logits, for all queries, and whose values are 0."""
    width = tokens.shape[2]
    direction = torch.randint(0, 2, (width,)) * 2.0 - 1
    tokens[:, 1] = 3 * direction  # LayerNorm makes it the direction itself
    for block in backbone.blocks:
        heads, depth = block.attn.num_heads, block.attn.head_dim
        query, key, value = block.attn.qkv.weight.view(3, heads, depth, width)
        bias = block.attn.qkv.bias.view(3, heads, depth)
        query[:, 0], bias[0, :, 0] = 0, 4.0
        key[:, 0], bias[1, :, 0] = direction / width * gap * depth**0.5 / 4, 0
        value -= (value @ direction)[..., None] * direction / width
        bias[2] = 0


def as_quantized(backbone: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """The blocks in floating point, with the integer weights, and per-token integer inputs, of Int8Blocks."""

    def round_input(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        scale = inputs[0].abs().amax(dim=2, keepdim=True) / (kernels.zero_point() - 1)
        rounded = (inputs[0] / scale).round() * scale
        return torch.cat([inputs[0][:, :1], rounded[:, 1:]], dim=1)  # the class token's is far finer

    blocks = copy.deepcopy(backbone.blocks)
    for index, block in enumerate(blocks):
        block.attn.fused_attn, block.attn.scale = False, 1.0  # it is in the queries
        for layer in smoothing.LAYERS:
            name, own = f"backbone.blocks.{index}.{layer}", block.get_submodule(layer)
            own.weight.copy_(tensors[f"{name}.weight"] * tensors[f"{name}.scale"][:, None])
            own.register_forward_pre_hook(round_input)
    return blocks


def int8_blocks(backbone: nn.Module) -> vitquant_int8.Int8Blocks:
    """The blocks in INT8, not smoothed, for inputs that nothing is known of."""
    return vitquant_int8.Int8Blocks(*quantized(backbone))


def quantized(backbone: nn.Module) -> tuple[dict[str, Tensor], list[tuple[int, float, float]]]:
    """What Int8Blocks takes; attention's scale is folded into the backbone's query rows."""
    tensors: dict[str, Tensor] = {}
    shapes = []
    for index, block in enumerate(backbone.blocks):
        path = f"backbone.blocks.{index}"
        shapes.append(vitquant_int8._shape(block))
        hidden = block.mlp.fc1.out_features
        tensors |= {f"{path}.mlp.centre": torch.zeros(hidden), f"{path}.mlp.inverse": torch.ones(hidden)}
        tensors |= {f"{path}.{name}": tensor.clone() for name, tensor in block.state_dict().items() if "norm" in name}
        for layer in smoothing.LAYERS:
            own = block.get_submodule(layer)
            weight, bias = own.weight.clone(), own.bias.clone()
            if layer == "attn.qkv":
                queries = slice(None, len(weight) // 3)
                weight[queries] *= block.attn.scale
                bias[queries] *= block.attn.scale
            own.weight, own.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
            tensors |= vitquant_int8._quantize(f"{path}.{layer}", own, torch.eye(own.in_features).double())
    return tensors, shapes
