"""The CUDA benchmark, on the GPU where there is one, else with the CPU in its place: the same runner and file."""

import contextlib
import os
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from conftest import mini_study

from vitquant.analysis.analyse import analyse_device
from vitquant.analysis.load import load_gpus
from vitquant.cli import main
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import cuda_benchmark, nvml, profiler, session
from vitquant.measure import cuda_results as results
from vitquant.params import Params
from vitquant.results import form, predictions
from vitquant.results.gpu import Gpu, GpuStudy, array_name, file_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU_RECIPES = {
    "fp32": {"method": "floating_point", "dtype": "float32", "compile": False},
    "vitquant-int8": {"method": "vitquant_gpu", "format": "int8", "scales": "static"},
}


@pytest.fixture(scope="module")
def study(images: Path) -> Params:
    plain = mini_study(images)
    plain["cuda"] |= {"recipes": GPU_RECIPES, "speed_only": ["test_vit"]}
    return Params.model_validate(plain)


@pytest.fixture(scope="module")
def measured(study: Params, fp32: Path, prepared: Prepared) -> list[tuple[GpuStudy, dict]]:
    """The study, and another architecture, of which one recipe is enough."""
    baseline = study.cuda.model_copy(update={"recipes": {"fp32": study.cuda.recipes["fp32"]}})
    return [
        cuda_benchmark.run(artifact, prepared, own.model_copy(update={"cuda": cuda}), 2, DEVICE)
        for (own, artifact), cuda in zip(
            cuda_benchmark.studies(study, fp32, prepared), (study.cuda, baseline), strict=True
        )
    ]


def test_every_recipe_has_its_samples_and_predictions(measured: list[tuple[GpuStudy, dict]]) -> None:
    study, arrays = measured[0]
    assert study.study.name == "mini"
    assert study.recipes.keys() == GPU_RECIPES.keys()
    for name, recipe in study.recipes.items():
        own = recipe.measured
        assert own
        assert {size: [len(rounds) for rounds in launches] for size, launches in own.latency_ms.items()} == {
            1: [3],
            4: [3],
        }
        logits = arrays[array_name("mini", "logits", name)]
        assert logits.shape == (24, 6)
        assert own.logits_sha256 == predictions.digest(logits)
        assert arrays[array_name("mini", "cosine", name)].min() > 0.99
    assert sum(study.profile["fp32"].values()) > 0
    assert study.products_per_image > 1e6
    assert [launch.seconds > 0 for launch in study.conditions] == [True]
    assert study.copy_ms.keys() == {1, 4}
    labels = arrays[array_name("mini", "labels")]
    right = arrays[array_name("mini", "logits", "fp32")].argmax(axis=1) == labels
    assert right.mean() > 0.5  # chance is 17 %


def test_energy_is_measured_at_the_largest_batch_size_or_it_is_said_why_not(
    measured: list[tuple[GpuStudy, dict]],
) -> None:
    for study, _ in measured:
        sizes = [own.measured.energy_mj.keys() for own in study.recipes.values() if own.measured]
        if nvml.name() == "none":
            assert (study.idle_w, study.unavailable_energy) == (None, "NVML finds no GPU")
            assert set(map(len, sizes)) == {0}
        elif study.unavailable_energy is None:
            assert (study.idle_w or 0) > 0
            assert all(keys <= {4} for keys in sizes)


def test_the_findings_of_what_was_measured(
    measured: list[tuple[GpuStudy, dict]], tmp_path: Path, study: Params
) -> None:
    """From the files that were written to the estimates, as the report makes them."""
    gpu = measured[0][0].environment.gpu
    for own, arrays in measured:
        results.add(tmp_path, "no kernel", own, arrays)
    (loaded,) = load_gpus(tmp_path)
    device = analyse_device(*loaded)
    assert device.device == gpu
    fp32, int8 = (device.studies["mini"].recipes[name] for name in GPU_RECIPES)
    assert fp32.accuracy
    assert int8.accuracy
    assert int8.footprint
    assert fp32.footprint
    assert fp32.accuracy.top1.value > 50
    assert (int8.accuracy.agreement_pct or 0) > 90
    assert int8.footprint.size_mb < fp32.footprint.size_mb / 2
    assert int8.speedup(1)
    other = device.studies["test_vit"].recipes["fp32"]
    assert "never trained" in other.unavailable["accuracy"]
    assert other.at(1).p50_ms > 0
    assert not other.accuracy


def test_a_baseline_that_cannot_run_ends_in_one_line(study: Params, fp32: Path, prepared: Prepared) -> None:
    """It has no kernels for such a device."""
    recipes = {"fp32": study.cuda.recipes["fp32"]}
    broken = study.model_copy(update={"cuda": study.cuda.model_copy(update={"recipes": recipes})})
    with pytest.raises(VitquantError, match=r"fp32, .* could not be measured: .*: earlier results stay"):
        cuda_benchmark.run(fp32, prepared, broken, 1, torch.device("meta"))


def test_a_study_replaces_itself_and_nothing_else(measured: list[tuple[GpuStudy, dict]], tmp_path: Path) -> None:
    (first, arrays), (other, _) = measured
    assert file_of(tmp_path, "NVIDIA H200").name == "nvidia-h200.json"
    changed = first.model_copy(update={"date": "2000-01-01"})
    for study, own in ((first, arrays), (other, {}), (changed, arrays)):
        file = results.add(tmp_path, "no kernel", study, own)
    content = form.read(file, Gpu)
    assert content.quantize_dynamic == "no kernel"
    assert content.studies == {"mini": changed, "test_vit": other}
    assert predictions.read(file.with_suffix(".npz")).keys() == arrays.keys()


def test_a_file_of_another_version_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "nvidia-t4.json").write_text('{"device": "NVIDIA T4", "studies": {}}')
    results.check(tmp_path, "NVIDIA H200")
    with pytest.raises(VitquantError, match=r"nvidia-t4.json has version 1 .*: move it away and measure again"):
        results.check(tmp_path, "NVIDIA T4")


def test_quantize_dynamic_runs_on_the_cpu_alone() -> None:
    assert cuda_benchmark.quantize_dynamic_error(torch.device("cpu")) == "none: it ran on cpu"
    if DEVICE.type == "cuda":
        assert "Could not run 'quantized::linear_dynamic'" in cuda_benchmark.quantize_dynamic_error(DEVICE)


def test_memory_that_runs_out_is_reported_and_other_errors_are_raised() -> None:
    text = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 14.56 GiB of which"
    with pytest.raises(RuntimeError, match="no kernel"):
        session._out_of_memory(RuntimeError("no kernel image"))
    assert session._out_of_memory(torch.OutOfMemoryError(text)) == ("CUDA out of memory. Tried to allocate 20.00 GiB")


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


def command(study: dict, out: Path) -> Result:
    (out.parent / "params.yaml").write_text(yaml.safe_dump(study))
    with contextlib.chdir(out.parent):
        return CliRunner().invoke(main, ["benchmark-cuda", "--fp32", "none", "--data", "none", "--out", str(out)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_earlier_results_stay(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "cuda"
    out.mkdir()
    (out / "nvidia-t4.json").write_text("{}")
    done = command(mini_study(images) | {"device": "auto"}, out)
    assert (done.exit_code, done.stdout) == (0, "no CUDA device: kept 1 earlier results\n"), done.stderr
    assert (out / "nvidia-t4.json").read_text() == "{}"


def test_the_study_may_forbid_the_gpu(images: Path, tmp_path: Path) -> None:
    done = command(mini_study(images), tmp_path / "cuda")
    assert (done.exit_code, done.stdout) == (0, "device: cpu: kept 0 earlier results\n"), done.stderr


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cuda").mkdir(mode=0o555)
    done = command(mini_study(images), tmp_path / "cuda")
    assert done.exit_code == 1
    assert "is not writable" in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_the_fingerprint_names_the_gpu() -> None:
    assert (nvml.name() == "none") == (nvml.describe().get("driver") is None)
