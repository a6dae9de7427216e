"""vitquant-int8 and dynamic-int8-smooth, which share smoothing and GPTQ."""

import copy
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.layers import HybridEmbed
from torch import nn

from vitquant import artifact, recipes
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.models.loading import load_model
from vitquant.models.vit import ViTClassifier
from vitquant.params import Recipe
from vitquant.predictor import read_weights, write_weights
from vitquant.quantization import families, rounding, smoothing
from vitquant.quantization.layers import Smoothed
from vitquant.quantization.smoothing import Smoothing
from vitquant.recipes.vitquant_int8.describe import describe
from vitquant.runtime import library
from vitquant.runtime.library import Library

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
        block.mlp.norm = Smoothed(fc2.centre, 1 / fc2.scale)
    reference = recipes.load(fp32)
    inputs = reference.preprocess(prepared.images("val")[:6])
    with torch.inference_mode():
        assert (model(inputs) - reference.forward(inputs)).abs().max() < 1e-4


def test_scales_are_those_of_the_definition(int8: Path, smoothed) -> None:
    """Of the smoothed FP32 weights: the largest magnitude of each output channel over 127."""
    per_token = int8.name == "vitquant-int8"
    model, _ = smoothed
    tensors = read_weights(int8)
    for index, block in enumerate(model.backbone.blocks):
        for layer in families.LAYERS:
            name, weight = f"backbone.blocks.{index}.{layer}", block.get_submodule(layer).weight.clone()
            if per_token and layer == "attn.qkv":
                weight[: len(weight) // 3] *= (len(weight) // 3 // block.attn.num_heads) ** -0.5  # attention's own
            if per_token and layer in ("attn.proj", "mlp.fc2"):
                scale = getattr(block, "ls1" if layer == "attn.proj" else "ls2")
                weight *= scale.gamma[:, None] if hasattr(scale, "gamma") else 1  # LayerScale
            wider = tensors[f"{name}.scale"] / (weight.abs().amax(dim=1) / 127)
            tried = rounding.WIDER if per_token and Library().largest_weight_sum else (1.0,)
            assert torch.isclose(wider[:, None], torch.tensor(tried)).any(dim=1).all()
            restored = tensors[f"{name}.weight"] * tensors[f"{name}.scale"][:, None]
            assert torch.linalg.norm(restored - weight) < 0.05 * torch.linalg.norm(weight)


def test_weights_are_int8_and_the_rest_is_float(int8: Path) -> None:
    tensors = read_weights(int8)
    for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        name = f"backbone.blocks.1.{layer}"
        assert tensors[f"{name}.weight"].dtype == torch.int8
        assert tensors[f"{name}.weight"].abs().max() <= 127
        assert tensors[f"{name}.scale"].shape == tensors[f"{name}.bias"].shape
    assert tensors["head.weight"].dtype == tensors["backbone.norm.weight"].dtype == torch.float32


def without_vnni(patch: pytest.MonkeyPatch) -> None:
    if platform.machine() == "x86_64":
        patch.setattr(library, "FLAGS", (*library.FLAGS, "-march=x86-64-v3", "-O1"))  # compiles faster
    assert Library().largest_weight_sum


def test_without_vnni_it_is_close_to_fp32(
    fp32: Path, calibration, prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_vnni(monkeypatch)
    recipes.build("r", RECIPE, fp32, tmp_path / "r", calibration)
    for name, tensor in read_weights(tmp_path / "r").items():
        if tensor.dtype == torch.int8:
            assert rounding.sums_of_four(tensor).max() <= Library().largest_weight_sum, name
    images = prepared.images("val")[:8]
    reference = recipes.load(fp32)(images)
    assert np.abs(recipes.load(tmp_path / "r")(images) - reference).max() < 0.1 * np.abs(reference).max()


def test_without_vnni_weights_that_would_overflow_are_refused(
    fp32: Path, calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Library, "largest_weight_sum", None)
        recipes.build("r", RECIPE, fp32, tmp_path / "r", calibration)
    without_vnni(monkeypatch)
    with pytest.raises(UnsupportedError, match="made on a CPU with VNNI, which this one lacks: quantize again here"):
        recipes.load(tmp_path / "r")


def test_an_artifact_that_does_not_describe_its_network_is_refused(built, tmp_path: Path) -> None:
    """As those of before."""
    opened = artifact.open_artifact(built("vitquant-int8"))
    artifact.write(tmp_path / "r", opened.spec, lambda folder: write_weights(folder, {}) or {})
    with pytest.raises(
        VitquantError, match="network.json is missing: make it again with `dvc repro`, or vitquant.quantize"
    ):
        recipes.load(tmp_path / "r")


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("swin_tiny_patch4_window7_224", {}, "its type is SwinTransformer"),
        (
            "beit_base_patch16_224",
            {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
            "its blocks share a bias of relative positions",
        ),
        ("test_vit", {"global_pool": "prr"}, "its pooling is prr"),
        ("test_vit", {"embed_layer": HybridEmbed, "patch_size": 1}, "its patch embedding is a HybridEmbed"),
        ("test_vit", {"embed_norm_layer": "layernorm"}, "its patch embedding has a norm"),
        ("test_vit", {"embed_norm_layer": None, "norm_layer": partial(nn.LayerNorm, eps=1e-3), "pre_norm": True}, ""),
    ],
)
def test_only_plain_vits_are_taken(name: str, options: dict, why: str) -> None:
    if "embed_layer" in options:
        options = options | {"embed_layer": partial(HybridEmbed, backbone=nn.Conv2d(3, 8, 16, 16))}
    model = nn.Module()
    model.backbone = timm.create_model(name, num_classes=0, **options)
    model.head, model.pooling = nn.Linear(1, 3), "own"
    if not why:
        assert describe(model).epsilon == 1e-3
        model.backbone.norm.eps = 1e-6
        why = "its LayerNorms' epsilons differ"
    with pytest.raises(UnsupportedError, match=f"^vitquant-int8 does not run this model: {why}$"):
        describe(model)


def run_in_a_process(script: str, path: Path) -> list[str]:
    """What a script prints in a process of its own, in which nothing has run on several cores before."""
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True).stdout.split()


def test_it_runs_on_as_many_threads_as_pytorch_is_set_to(built) -> None:
    """Counted in a Python thread that PyTorch has not run in."""
    script = """
import os, sys, threading, torch
from vitquant import recipes
def tasks(): return set(os.listdir("/proc/self/task"))
def call():
    before = tasks()  # one may be ending: so they are told apart, not counted
    function(images)
    print(len(tasks() - before))
predictor = recipes.load(sys.argv[1])
function, side = predictor._forward, predictor.artifact.spec.preprocessing.crop
images = torch.zeros(1, 3, side, side)
for threads in (1, 3):
    torch.set_num_threads(threads)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
"""
    assert run_in_a_process(script, built("vitquant-int8")) == ["0", "2"]


def test_it_adds_no_threads_to_those_of_a_pool(built) -> None:
    script = """
import os, sys
import numpy as np, torch
from vitquant import recipes
from vitquant.parallel import CPU, map_batches
from vitquant.params import Evaluate
torch.set_num_threads(2)
predictor, counts = recipes.load(sys.argv[1]), set()
side = predictor.artifact.spec.preprocessing.crop
def function(batch):
    result = predictor.forward(predictor.preprocess(batch))
    counts.add(len(os.listdir("/proc/self/task")))
    return result
images = np.zeros((12, side, side, 3), np.uint8)
before = len(os.listdir("/proc/self/task"))
map_batches(function, images, Evaluate(batch_size=1, cuda_batch_size=1, large_batch=5, workers=0), CPU, 2, "counting")
print(max(counts) - before)
"""
    (added,) = run_in_a_process(script, built("vitquant-int8"))
    assert int(added) <= 3  # the pool's two, and the progress bar's
