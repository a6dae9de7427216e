import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import without

from vitquant import artifact, recipes
from vitquant.predictor import read_weights
from vitquant.recipes import zentorch

from .examples import EXAMPLES, Built, Run

LAYER = "backbone.blocks.0.mlp.fc1"


def layer_outputs(path: Path, inputs: torch.Tensor) -> torch.Tensor:
    """Of one linear layer, by zentorch's kernel, uncompiled."""
    zentorch.preload()
    with torch.inference_mode():
        return zentorch.module(artifact.open_artifact(path)).get_submodule(f"model.{LAYER}")(inputs)


def test_a_layer_multiplies_integers_with_a_scale_per_channel_and_per_token(built: Built, run: Run, fp32: Path) -> None:
    weights, floats = read_weights(built("zentorch-int8")), read_weights(fp32)
    weight, scale, bias = (weights[f"{LAYER}.{part}"] for part in ("weight", "scale", "bias"))
    expected = floats[f"{LAYER}.weight"]
    assert torch.allclose(scale, expected.abs().amax(dim=1) / 127)
    assert (weight.dtype, weight.abs().amax()) == (torch.int8, 127)
    assert ((weight * scale[:, None] - expected).abs() <= 0.501 * scale[:, None]).all()
    inputs = torch.randn(3, 5, weight.shape[1], generator=torch.Generator().manual_seed(0))
    outputs = run("zentorch-int8", layer_outputs, built("zentorch-int8"), inputs)
    step = inputs.abs().amax(dim=2, keepdim=True) / 127
    integers = (inputs / step).round()
    assert torch.allclose(outputs, integers @ weight.float().T * step * scale + bias, atol=1e-4)


def test_bfloat16_is_the_backbone_s_and_the_head_stays_float32(built: Built, fp32: Path) -> None:
    weights, floats = read_weights(built("zentorch-bf16")), read_weights(fp32)
    for name, tensor in weights.items():
        assert torch.equal(tensor, floats[name] if name.startswith("head.") else floats[name].bfloat16())


def test_no_method_imports_zentorch_by_being_imported() -> None:
    """It would change what the others run with."""
    program = """
import pkgutil, sys
from vitquant import recipes
for module in pkgutil.iter_modules(recipes.__path__):
    recipes.method(module.name)
print("zentorch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_a_cpu_without_its_instructions_is_told_so_before_anything_is_imported(
    fp32: Path, calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setitem(sys.modules, "zentorch", None)
    recipes.build("r", EXAMPLES["zentorch-int8"].recipe, fp32, tmp_path / "r", calibration)
    reason = artifact.open_artifact(tmp_path / "r").spec.unavailable
    assert reason == "zentorch multiplies with AVX-512, its VNNI and its BF16, which this CPU lacks"


def test_without_the_package_it_is_unavailable(built: Built, fp32: Path, tmp_path: Path) -> None:
    built("zentorch-bf16")  # skips where the CPU lacks its instructions, which is the reason given first
    reason = without("zentorch", EXAMPLES["zentorch-bf16"].recipe, fp32, tmp_path / "r")
    assert reason == "zentorch is not installed: pip install zentorch"
