"""The CUDA benchmark, on the GPU where there is one, else with the CPU in its place: the same runner and file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import mini_study

from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import benchmark, cuda_benchmark, nvml, profiler
from vitquant.measure import cuda_results as results
from vitquant.params import Params
from vitquant.traits import FP32, Traits

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU_RECIPES = {
    "fp32": {"method": "floating_point", "dtype": "float32", "compile": False},
    "vitquant-int8": {
        "method": "eight_bit",
        "weights": "int8",
        "activations": "dynamic",
        "dtype": "float16",
        "smooth": True,
    },
}


@pytest.fixture(scope="module")
def study(images: Path) -> Params:
    plain = mini_study(images)
    plain["cuda"] |= {"recipes": GPU_RECIPES, "speed_only": ["test_vit"]}
    return Params.model_validate(plain)


@pytest.fixture(scope="module")
def joined(study: Params, fp32: Path, prepared: Prepared) -> list[dict]:
    """The study, and another architecture, of which one recipe is enough."""
    found = []
    baseline = study.cuda.model_copy(update={"recipes": {"fp32": study.cuda.recipes["fp32"]}})
    for (own, artifact), cuda in zip(
        cuda_benchmark.studies(study, fp32, prepared), (study.cuda, baseline), strict=True
    ):
        measured, logits = cuda_benchmark.run(artifact, prepared, own.model_copy(update={"cuda": cuda}), 1, DEVICE)
        found.append(results.join(own, measured, logits, prepared))
    return found


def test_every_recipe_has_its_row(joined: list[dict]) -> None:
    study = joined[0]
    assert study["study"]["name"] == "mini"
    fp32, int8 = (study["recipes"][name] for name in GPU_RECIPES)
    assert fp32["top1_pct"] > 50  # chance is 17 %
    assert fp32["latency_b4_ms_p50"] > 0
    assert int8["speedup_b1_ci95_x"][0] <= int8["speedup_b1_x"] <= int8["speedup_b1_ci95_x"][1]
    assert int8["agreement_pct"] > 90
    assert int8["size_mb"] < fp32["size_mb"] / 2
    assert int8["memory_allocator_peak_mb"] > 0
    assert sum(study["profile"]["fp32"].values()) > 0
    assert study["environment"]["git_commit"]
    assert json.loads(json.dumps(study, allow_nan=False)) == study


def test_ratios_to_fp32_and_to_compiled_bf16_and_what_a_gpu_says_of_memory_and_energy(
    study: Params, prepared: Prepared
) -> None:
    """Of numbers made up: 8 bits take 2 ms where compiled BF16 takes 3 and FP32 12."""
    bf16 = Traits(weight_bits=16, activation_bits=16, arithmetic="bfloat16", execution="compiled", devices=("cuda",))
    int8 = Traits(weight_bits=8, activation_bits=8, arithmetic="int8", execution="compiled", devices=("cuda",))
    made_up = {
        name: {
            "traits": traits.model_dump(mode="json"),
            "latency_ms": {"4": [milliseconds, 2 * milliseconds, milliseconds]},
            "memory_bytes": {"model": 20_000_000, "peak": 30_000_000},
            "process_memory_bytes": 500_000_000,
            "size_bytes": traits.weight_bits * 1_000_000,
            "energy_mj": {"4": 10 * milliseconds},
        }
        for name, traits, milliseconds in (("fp32", FP32, 12.0), ("half", bf16, 3.0), ("eight", int8, 2.0))
    }
    made_up["eight"]["unavailable_accuracy"] = "NaN or infinite logits"
    logits = np.eye(6, dtype=np.float32)[prepared.labels("val")]
    measured = {"recipes": made_up, "environment": {}, "profile": {}}
    rows = results.join(study, measured, {"fp32": logits, "half": logits}, prepared)["recipes"]
    assert rows["half"]["speedup_b4_x"] == 4
    assert rows["eight"]["speedup_b4_x"] == 6
    assert rows["eight"]["vs_bf16_compiled_b4_x"] == 1.5
    assert rows["eight"]["vs_bf16_compiled_b4_ci95_x"] == [1.5, 1.5]
    assert not any(key.startswith("vs_") for name in ("fp32", "half") for key in rows[name])
    assert rows["half"]["agreement_pct"] == rows["fp32"]["top1_pct"] == 100
    assert "top1_pct" not in rows["eight"]
    assert rows["eight"]["unavailable"] == {"accuracy": "NaN or infinite logits"}
    assert rows["eight"]["memory_allocator_peak_mb"] == 30
    assert rows["eight"]["memory_process_mb"] == 500
    assert rows["eight"]["energy_b4_mj_img"] == 20
    assert rows["eight"]["size_reduction_pct"] == 75


def test_other_architectures_are_for_speed_alone(joined: list[dict]) -> None:
    study = joined[1]
    assert study["study"]["name"] == "test_vit"
    assert "never trained" in study["recipes"]["fp32"]["unavailable"]["accuracy"]
    assert study["recipes"]["fp32"]["latency_b1_ms_p50"] > 0


def test_a_gpu_that_cannot_hold_the_baseline_ends_in_one_line(study: Params, prepared: Prepared) -> None:
    measured = {"recipes": {"fp32": {"unavailable": "CUDA out of memory"}}, "environment": {}, "profile": {}}
    with pytest.raises(VitquantError, match=r"fp32, .* could not be measured: CUDA out of memory: earlier results"):
        results.join(study, measured, {}, prepared)


def test_a_study_replaces_itself_and_nothing_else(joined: list[dict], tmp_path: Path) -> None:
    file = results.device_file(tmp_path, "NVIDIA H200")
    assert file.name == "nvidia-h200.json"
    for name, study in (("a", joined[0]), ("b", joined[1]), ("a", joined[1])):
        results.add(file, name, study, "no kernel")
    content = json.loads(file.read_text())
    assert content["quantize_dynamic"] == "no kernel"
    assert content["studies"] == {"a": joined[1], "b": joined[1]}


def test_quantize_dynamic_runs_on_the_cpu_alone() -> None:
    assert cuda_benchmark.quantize_dynamic_error(torch.device("cpu")) == "none: it ran on cpu"
    if DEVICE.type == "cuda":
        assert "Could not run 'quantized::linear_dynamic'" in cuda_benchmark.quantize_dynamic_error(DEVICE)


def test_memory_that_runs_out_is_reported_and_other_errors_are_raised() -> None:
    text = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 14.56 GiB of which"
    with pytest.raises(RuntimeError, match="no kernel"):
        benchmark._out_of_memory(RuntimeError("no kernel image"))
    assert benchmark._out_of_memory(torch.OutOfMemoryError(text)) == ("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("triton_red_fused__scaled_dot_product_flash_attention__unsafe_view_3", profiler.ELEMENTWISE),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128>>", "attention"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_bias_TNT", "linear layers"),
        ("triton_tem_fused_addmm_7", "linear layers"),
        ("int8_linear_kernel", "linear layers"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "linear layers"),
        ("Memcpy DtoD (Device -> Device)", "rest"),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert profiler.kind(name) == kind


def command(study: dict, out: Path) -> subprocess.CompletedProcess[str]:
    (out.parent / "params.yaml").write_text(yaml.safe_dump(study))
    program = [sys.executable, "-c", "from vitquant.cli import main; main()", "--params", "params.yaml"]
    paths = ["benchmark-cuda", "--fp32", "none", "--data", "none", "--out", str(out)]
    return subprocess.run([*program, *paths], capture_output=True, text=True, check=False, cwd=out.parent)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_earlier_results_stay(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "cuda"
    out.mkdir()
    (out / "nvidia-t4.json").write_text("{}")
    done = command(mini_study(images) | {"device": "auto"}, out)
    assert (done.returncode, done.stdout) == (0, "no CUDA device: kept 1 earlier results\n"), done.stderr
    assert (out / "nvidia-t4.json").read_text() == "{}"


def test_the_study_may_forbid_the_gpu(images: Path, tmp_path: Path) -> None:
    done = command(mini_study(images), tmp_path / "cuda")
    assert (done.returncode, done.stdout) == (0, "device: cpu: kept 0 earlier results\n"), done.stderr


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cuda").mkdir(mode=0o555)
    done = command(mini_study(images), tmp_path / "cuda")
    assert done.returncode == 1
    assert "is not writable" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_fingerprint_names_the_gpu() -> None:
    assert (nvml.name() == "none") == (nvml.describe().get("driver") is None)
