"""The section on GPUs, from raw results as a benchmark leaves them: samples, and predictions beside them."""

import re
from pathlib import Path

import handmade
import pytest

from vitquant.analysis import claims, load, rules
from vitquant.analysis.analyse import analyse
from vitquant.analysis.findings import Findings
from vitquant.data.prepared import Prepared
from vitquant.measure import cuda_results
from vitquant.params import Params
from vitquant.report import build, gpu_section, tables
from vitquant.results.benchmark import Benchmarked
from vitquant.results.gpu import GpuStudy
from vitquant.traits import Traits


@pytest.fixture
def inputs(prepared: Prepared, tmp_path: Path) -> load.Inputs:
    return handmade.stages(prepared, tmp_path / "stages")


@pytest.fixture
def gpu() -> GpuStudy:
    """For the test to change."""
    return handmade.gpu_study()


def found(params: Params, inputs: load.Inputs, *studies: GpuStudy) -> Findings:
    """What the report is made from, of raw results of GPUs too."""
    for study in studies:
        handmade.write_gpu(inputs.cuda, study)
    return analyse(load.load(params, inputs))


def section(params: Params, inputs: load.Inputs, *studies: GpuStudy) -> str:
    return gpu_section.section(found(params, inputs, *studies))


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {start}"))


def recipe(traits: Traits, milliseconds: float) -> Benchmarked:
    """Timed at batch 8 in every round alike; it has nothing else that is worth a look."""
    like = handmade.gpu_study().recipes["fp32"].measured
    assert like
    return Benchmarked(traits=traits, measured=like.model_copy(update={"latency_ms": {8: [[milliseconds] * 3]}}))


def test_no_device(params: Params, inputs: load.Inputs) -> None:
    assert section(params, inputs) == gpu_section.NONE
    inputs.cuda.mkdir()
    assert section(params, inputs) == gpu_section.NONE


def test_one_device(params: Params, inputs: load.Inputs, gpu: GpuStudy) -> None:
    text = section(params, inputs, gpu)
    assert "### NVIDIA H200: tiny-imagenet" in text
    assert "`vit_base_patch14_dinov2` on tiny-imagenet, 2,000 images, 25 classes; measured 2026-11-24: " in text
    assert f"driver 570.1, PyTorch 2.14.0, commit {'c' * 12}." in text
    faster = r"- Batch 128: yes. `int8-compiled` is faster: 1.25 \[1.21, 1.29\] × the speed of `bf16-compiled`, with "
    assert re.search(rf"{faster}-0.10 \[-0\.\d\d, \+0\.\d\d\] pp of top-1 \(no difference shown\)\.", text)
    assert "- Batch 1: not shown. `int8-compiled` is not distinguishable in speed: 1.00 [0.92, 1.08] ×" in text
    assert "- benchmark of `fp8-compiled`: needs \\| compute capability 8.9" in text
    int8 = row(text, "int8-compiled")
    for number in ("83.90", "99.70", "0.9990", "16.00", "6.25 [6.06, 6.44]", "8,000", "55.5"):
        assert f" {number} |" in int8, number
    memory = next(line for line in text.splitlines() if line.startswith("| int8-compiled") and "1,200" in line)
    assert re.fullmatch(r"\| int8-compiled +\| +400 \| +1,200 \| +88.0 \|", memory)
    assert "0.070" in text  # the sum of the profile


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        (handmade.CLEARLY_MORE, "yes. `int8-compiled` is faster"),
        (handmade.AS_MUCH, "not shown. `int8-compiled` is not distinguishable"),
        (handmade.CLEARLY_LESS, "no. `int8-compiled` is slower"),
    ],
)
def test_the_verdict_follows_the_interval(
    params: Params, inputs: load.Inputs, gpu: GpuStudy, ratios: list[float], verdict: str
) -> None:
    int8 = gpu.recipes["int8-compiled"].measured
    assert int8
    int8.latency_ms[128] = [[20.0 / ratio for ratio in ratios]]
    assert f"- Batch 128: {verdict}" in section(params, inputs, gpu)


def test_a_batch_size_that_no_floating_point_ran_has_no_verdict(
    params: Params, inputs: load.Inputs, gpu: GpuStudy
) -> None:
    for name in ("fp32", "bf16-compiled"):
        measured = gpu.recipes[name].measured
        assert measured
        del measured.latency_ms[128]
        measured.unavailable_batches[128] = "out of memory"
    text = section(params, inputs, gpu)
    assert "- Batch 1: not shown." in text
    assert "- Batch 128:" not in text
    assert "- batch 128 of `fp32`, `bf16-compiled`: out of memory" in text


def test_accuracy_that_is_not_there_is_explained(params: Params, inputs: load.Inputs, gpu: GpuStudy) -> None:
    for measured in (recipe.measured for recipe in gpu.recipes.values() if recipe.measured):
        measured.unavailable_accuracy, measured.process_memory_bytes = "untrained head", None
    cuda_results.add(inputs.cuda, handmade.QUANTIZE_DYNAMIC, gpu, {})
    text = section(params, inputs)
    assert "- accuracy of `fp32`, `bf16-compiled`, `int8-compiled`: untrained head" in text
    assert "NVML shows no memory by process here" in text
    assert "- Batch 128: yes. `int8-compiled` is faster: 1.25 [1.21, 1.29] × the speed of `bf16-compiled`." in text
    assert "top-1 %" not in text


def test_any_floating_point_is_a_rival(params: Params, inputs: load.Inputs, gpu: GpuStudy) -> None:
    gpu.recipes["mine"] = gpu.recipes.pop("bf16-compiled")
    assert "× the speed of `mine`" in section(params, inputs, gpu)
    del gpu.recipes["int8-compiled"]
    assert "one of the two was not timed" in section(params, inputs, gpu)


def test_recipes_are_judged_by_their_traits_whatever_their_names(
    params: Params, inputs: load.Inputs, gpu: GpuStudy
) -> None:
    """Two mislead by their names, and are in the race as what they are."""
    fp32, bf16, int8 = (gpu.recipes[name].traits for name in ("fp32", "bf16-compiled", "int8-compiled"))
    gpu.recipes = {
        "fp32": recipe(fp32, 40.0),
        "bf16-compiled": recipe(int8, 9.0),
        "int8-w8a8": recipe(bf16.model_copy(update={"execution": "eager"}), 30.0),
        "half": recipe(bf16, 10.0),
        "mine": recipe(int8, 8.0),
    }
    findings = found(params, inputs, gpu)
    text = gpu_section.section(findings)
    assert "- Batch 8: yes. `mine` is faster: 1.25 [1.25, 1.25] × the speed of `half`" in text
    assert gpu_section.answer(findings) == (
        "On an NVIDIA H200 with PyTorch 2.14.0, `vit_base_patch14_dinov2`'s best 8-bit recipe is, against the best "
        "floating-point one (`half`), faster at batch 8."
    )


def test_a_recipe_has_8_bits_by_its_traits_not_by_its_name(params: Params, inputs: load.Inputs, gpu: GpuStudy) -> None:
    gpu.recipes["int8-compiled"].traits = gpu.recipes["fp32"].traits
    assert "one of the two was not timed" in section(params, inputs, gpu)


def test_every_verdict_names_its_pytorch(params: Params, inputs: load.Inputs, gpu: GpuStudy) -> None:
    gpu.environment.torch = "2.11.0+cu128"
    findings = found(params, inputs, gpu)
    verdicts = [line for line in gpu_section.section(findings).splitlines() if line.startswith("- Batch ")]
    assert len(verdicts) == 2
    assert all(line.endswith(" Measured with PyTorch 2.11.0+cu128.") for line in verdicts)
    assert "On an NVIDIA H200 with PyTorch 2.11.0+cu128, " in gpu_section.answer(findings)


def test_energy_and_copies_are_told_where_they_were_measured(
    params: Params, inputs: load.Inputs, gpu: GpuStudy
) -> None:
    measured = [recipe.measured for recipe in gpu.recipes.values() if recipe.measured]
    for own in measured:
        own.energy_mj = {}
    gpu.copy_ms, gpu.idle_w, gpu.unavailable_energy = {}, None, None
    text = section(params, inputs, gpu)
    assert "Inputs are on the GPU already" not in text
    assert "Energy was" not in text
    gpu.copy_ms, gpu.idle_w, measured[0].energy_mj = {128: 1.4449, 1: 0.03124}, 97.25, {128: 55.5}
    text = section(params, inputs, gpu)
    copies = "copying them there from pinned memory takes 0.0312 ms at batch 1 and 1.44 ms at batch 128, which is not"
    assert f"Inputs are on the GPU already: {copies} counted." in text
    assert "Energy was measured at batch 128, and is less the 97.2 W that are taken when nothing runs." in text
    gpu.idle_w, gpu.unavailable_energy, measured[0].energy_mj = None, "NVML does not | say", {}
    assert "Energy was not measured: NVML does not \\| say." in section(params, inputs, gpu)


def test_the_answer_has_a_sentence_per_device(params: Params, inputs: load.Inputs, gpu: GpuStudy) -> None:
    assert gpu_section.answer(found(params, inputs)) == ""
    assert gpu_section.answer(found(params, inputs, gpu, handmade.gpu_study("NVIDIA T4"))) == (
        "On an NVIDIA H200 with PyTorch 2.14.0, `vit_base_patch14_dinov2`'s best 8-bit recipe is, against the best "
        "floating-point one (`bf16-compiled`), "
        "faster at batch 128 and not distinguishable in speed at batch 1. "
        "On an NVIDIA T4 with PyTorch 2.14.0, `vit_base_patch14_dinov2`'s best 8-bit recipe is, against the best "
        "floating-point one (`bf16-compiled`), "
        "faster at batch 128 and not distinguishable in speed at batch 1."
    )


def test_the_answer_is_about_the_devices_study_of_the_same_name(
    params: Params, inputs: load.Inputs, gpu: GpuStudy
) -> None:
    small = handmade.SEEDS.model_copy(update={"name": params.study, "model": "vit_small"})
    assert "`vit_small`'s best" in gpu_section.answer(found(params, inputs, gpu, handmade.gpu_study(facts=small)))


def test_two_devices(params: Params, inputs: load.Inputs, gpu: GpuStudy) -> None:
    text = section(params, inputs, gpu, handmade.gpu_study("NVIDIA T4"))
    assert text.index("### NVIDIA H200") < text.index("### NVIDIA T4")


def test_the_audit_takes_the_seeds_own_study_and_pytorchs_own_words(
    params: Params, inputs: load.Inputs, gpu: GpuStudy
) -> None:
    findings = found(params, inputs, gpu)
    text = tables.claims(claims.audit(findings))
    top1 = row(text, "top-1, FP32")
    assert re.search(r"84\.00 \[82\.\d\d, 85\.\d\d\] %", top1)
    assert "(`vit_base_patch14_dinov2` on tiny-imagenet, 2,000 images, NVIDIA H200)" in top1
    assert f"**{rules.EXCEEDED}**" in top1
    assert f"on NVIDIA H200 PyTorch says: {handmade.QUANTIZE_DYNAMIC}" in row(text, "where it ran")


def test_the_report_holds_the_section(params: Params, inputs: load.Inputs, gpu: GpuStudy) -> None:
    handmade.write_gpu(inputs.cuda, gpu)
    content = build.read(params, inputs)
    assert gpu_section.section(content.findings) in build.markdown(params, content, [])
