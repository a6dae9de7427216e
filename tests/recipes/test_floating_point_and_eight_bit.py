"""The GPU's recipes, on one where there is one, else on the CPU: every line but the CUDA graph's runs there too."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from vitquant import recipes
from vitquant.artifact import read_weights
from vitquant.data.prepared import Prepared
from vitquant.params import Recipe
from vitquant.quantization.layers import DynamicLinear, WeightOnlyLinear
from vitquant.recipes.eight_bit import Options, quantize

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FLOAT = {"method": "floating_point", "dtype": "float32", "compile": False}
INT8 = {
    "method": "eight_bit",
    "weights": "int8",
    "activations": "dynamic",
    "dtype": "float16",
    "smooth": False,
}
CASES = {
    "fp32": (FLOAT, 1e-4),
    "fp32-compiled": (FLOAT | {"compile": True}, 1e-3),
    "tf32": (FLOAT | {"dtype": "tfloat32"}, 2e-3),  # 11 bits on a GPU; on the CPU it is FP32
    "fp16": (FLOAT | {"dtype": "float16"}, 0.05),
    "bf16-compiled": (FLOAT | {"dtype": "bfloat16", "compile": True}, 0.3),
    "int8": (INT8, 0.5),
    "int8-smooth": (INT8 | {"smooth": True}, 0.5),
    "int8-weight-only": (INT8 | {"activations": "float"}, 0.3),
    "fp8": (INT8 | {"weights": "float8", "dtype": "bfloat16"}, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_its_logits_are_near_fp32s_and_loading_it_again_gives_the_same_bits(
    name: str, fp32: Path, prepared: Prepared, calibration: np.ndarray, tmp_path: Path
) -> None:
    options, tolerance = CASES[name]
    recipes.build(name, Recipe.model_validate(options), fp32, tmp_path / name, calibration)
    images = prepared.images("val")[:6]
    expected = recipes.load(fp32)(images)
    logits = recipes.load(tmp_path / name, DEVICE)(images)
    assert np.abs(logits - expected).max() < tolerance * np.abs(expected).max()
    shutil.move(tmp_path / name, tmp_path / "elsewhere")
    assert np.array_equal(recipes.load(tmp_path / "elsewhere", DEVICE)(images), logits)


def test_the_quantized_artifact_holds_8_bits_a_weight(fp32: Path, calibration: np.ndarray, tmp_path: Path) -> None:
    for weights, dtype in (("int8", torch.int8), ("float8", torch.float8_e4m3fn)):
        recipe = Recipe.model_validate(INT8 | {"weights": weights})
        recipes.build(weights, recipe, fp32, tmp_path / weights, calibration)
        tensors = read_weights(tmp_path / weights)
        assert tensors["backbone.blocks.0.mlp.fc1.weight"].dtype == dtype
        assert tensors["backbone.blocks.0.mlp.fc1.scale"].dtype == torch.float32
        assert tensors["backbone.cls_token"].dtype == torch.float16
        assert tensors["head.weight"].dtype == torch.float32


def test_int8_layers_compute_what_torchaos_do() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(64, 48).bfloat16().requires_grad_(False), torch.randn(5, 30, 64).bfloat16()
    own = DynamicLinear(*quantize(layer.weight.float(), Options(**options(INT8)), None), layer.bias.float())
    expected = layer(inputs)
    quantize_(layer, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    theirs = layer(inputs)
    error = (theirs - expected).float().square().mean().sqrt()
    assert (own(inputs) - theirs).float().square().mean().sqrt() < error  # they differ by 127 against 127.5 levels
    assert (own(inputs) - expected).float().square().mean().sqrt() < 1.2 * error


@pytest.mark.parametrize("weights", ["int8", "float8"])
def test_layers_equal_the_definition(weights: str) -> None:
    torch.manual_seed(0)
    weight, bias, inputs = torch.randn(48, 64), torch.randn(48), torch.randn(7, 64).bfloat16()
    values, scale = quantize(weight, Options(**options(INT8 | {"weights": weights})), None)
    largest = 127 if weights == "int8" else 448
    assert torch.allclose(scale, weight.abs().amax(dim=1) / largest)
    restored = values.float() * scale[:, None]
    assert torch.allclose(
        WeightOnlyLinear(values, scale, bias)(inputs).float(), inputs.float() @ restored.T + bias, atol=0.2, rtol=0.02
    )
    token_scale = inputs.float().abs().amax(dim=1, keepdim=True) / largest
    tokens = inputs.float() / token_scale
    tokens = tokens.round() if weights == "int8" else tokens.to(torch.float8_e4m3fn).float()
    assert torch.allclose(
        DynamicLinear(values, scale, bias)(inputs).float(),
        tokens @ values.float().T * token_scale * scale + bias,
        atol=0.2,
        rtol=0.02,
    )


def test_a_token_of_zeros_gives_the_bias() -> None:
    layer = DynamicLinear(torch.ones(8, 16, dtype=torch.int8), torch.ones(8), torch.arange(8.0))
    assert torch.equal(layer(torch.zeros(20, 16).half()), torch.arange(8.0).half().expand(20, 8))


def test_the_triton_kernel_equals_the_definition() -> None:
    """By Triton's interpreter, which runs kernels on the CPU."""
    program = """
import torch
from vitquant.recipes.eight_bit.triton_linear import int8_linear
torch.manual_seed(0)
for rows, depth, width in ((5, 96, 40), (130, 64, 72), (64, 192, 128)):
    x, weight = (torch.randint(-127, 128, (n, depth), dtype=torch.int8) for n in (rows, width))
    x_scale, weight_scale, bias = torch.rand(rows, 1), torch.rand(width), torch.randn(width)
    expected = (x.double() @ weight.double().t()) * x_scale * weight_scale + bias
    result = int8_linear(x, weight, x_scale, weight_scale, bias, torch.float32)
    assert torch.allclose(result.double(), expected, rtol=1e-5, atol=1e-2), (rows, depth, width)
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def options(recipe: dict) -> dict:
    return {key: value for key, value in recipe.items() if key != "method"}
