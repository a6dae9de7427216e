"""The section on GPUs, from small files made by hand."""

import copy
import json
from pathlib import Path

import handmade
import pytest

from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import estimates
from vitquant.params import Params
from vitquant.report import build, claims, gpu_section

ERROR = "Could not run 'quantized::linear_dynamic' with arguments from the 'CUDA' backend."


def traits(bits: int, arithmetic: str, execution: str = "compiled") -> dict:
    return {
        "weight_bits": bits,
        "activation_bits": bits,
        "arithmetic": arithmetic,
        "execution": execution,
        "devices": ["cpu", "cuda"],
    }


def recipe(traits: dict, milliseconds: float, **more: object) -> dict:
    return {
        "traits": traits,
        "top1_pct": 84.0,
        "top1_ci95_pct": [83.0, 85.0],
        "latency_b1_ms_p50": 1.0,
        "latency_b128_ms_p50": milliseconds,
        "throughput_b128_img_s": 128_000 / milliseconds,
        "memory_allocator_peak_mb": 400.0,
        "memory_process_mb": 1200.0,
        "energy_b128_mj_img": 55.5,
        "size_mb": 88.0,
        **more,
    }


@pytest.fixture
def device() -> dict:
    recipes = {
        "fp32": recipe(traits(32, "float32", "eager"), 100.0),
        "bf16-compiled": recipe(traits(16, "bfloat16"), 20.0, speedup_b128_x=5.0, speedup_b128_ci95_x=[4.9, 5.1]),
        "int8-compiled": recipe(
            traits(8, "int8"),
            16.0,
            top1_delta_pp=-0.1,
            top1_delta_ci95_pp=[-0.3, 0.1],
            agreement_pct=98.5,
            speedup_b128_x=6.25,
            speedup_b128_ci95_x=[6.2, 6.3],
            vs_bf16_compiled_b128_x=1.25,
            vs_bf16_compiled_b128_ci95_x=[1.2, 1.3],
        ),
        "fp8-compiled": {"traits": traits(8, "float8"), "unavailable": {"benchmark": "needs | compute capability 8.9"}},
    }
    return {
        "device": "NVIDIA H200",
        "quantize_dynamic": ERROR,
        "studies": {
            "tiny-imagenet": {
                "date": "2026-11-24",
                "study": {
                    "name": "tiny-imagenet",
                    "model": "vit_base_patch14_dinov2",
                    "data": "tiny-imagenet",
                    "eval_images": 2000,
                    "classes": 200,
                },
                "environment": {"gpu": "NVIDIA H200", "driver": "570.1", "torch": "2.14.0", "git_commit": "c" * 40},
                "recipes": recipes,
                "profile": {"int8-compiled": {"matmul": 0.05, "attention": 0.02}, "fp32": {"matmul": 0.6}},
            }
        },
    }


def write(folder: Path, *devices: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, content in enumerate(devices):
        (folder / f"gpu{index}.json").write_text(json.dumps(content))
    return folder


def test_no_device(tmp_path: Path) -> None:
    assert gpu_section.section(gpu_section.read(tmp_path / "cuda")) == gpu_section.NONE
    assert gpu_section.section(gpu_section.read(write(tmp_path / "cuda"))) == gpu_section.NONE


def test_one_device(tmp_path: Path, device: dict) -> None:
    text = gpu_section.section(gpu_section.read(write(tmp_path, device)))
    assert "### NVIDIA H200: tiny-imagenet" in text
    assert f"measured 2026-11-24: driver 570.1, PyTorch 2.14.0, commit {'c' * 12}." in text
    verdict = "- Batch 128: yes. `int8-compiled` is faster: 1.25 [1.20, 1.30] × the speed, with -0.10 [-0.30, +0.10] pp"
    assert verdict in text
    assert "Batch 1: not shown. `int8-compiled` is fastest of the 8-bit ones, without an interval to decide" in text
    assert "- benchmark of `fp8-compiled`: needs \\| compute capability 8.9" in text
    row = next(line for line in text.splitlines() if line.startswith("| int8-compiled"))
    assert "6.25 [6.20, 6.30]" in row
    assert "8,000" in row
    assert "0.070" in text  # the sum of the profile


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([1.2, 1.3], "yes. `int8-compiled` is faster"),
        ([0.9, 1.1], "not shown. `int8-compiled` is not distinguishable"),
        ([0.7, 0.9], "no. `int8-compiled` is slower"),
    ],
)
def test_the_verdict_follows_the_interval(tmp_path: Path, device: dict, interval: list[float], verdict: str) -> None:
    int8 = device["studies"]["tiny-imagenet"]["recipes"]["int8-compiled"]
    int8 |= {"vs_bf16_compiled_b128_x": sum(interval) / 2, "vs_bf16_compiled_b128_ci95_x": interval}
    assert f"- Batch 128: {verdict}" in gpu_section.section(gpu_section.read(write(tmp_path, device)))


def test_fp16_where_there_is_no_bf16(tmp_path: Path, device: dict) -> None:
    recipes = device["studies"]["tiny-imagenet"]["recipes"]
    recipes["fp16-compiled"] = recipes.pop("bf16-compiled")
    assert "Does the best 8-bit recipe beat `fp16-compiled`?" in gpu_section.section(
        gpu_section.read(write(tmp_path, device))
    )
    del recipes["fp16-compiled"]
    assert "one of the two was not timed" in gpu_section.section(gpu_section.read(write(tmp_path, device)))


def test_recipes_are_judged_by_their_traits_whatever_their_names(tmp_path: Path, params: Params, device: dict) -> None:
    """The two that mislead by their names are faster than the two that race."""
    timed = {
        name: {
            "traits": own,
            "latency_ms": {"8": [milliseconds] * 3},
            "memory_bytes": {"model": 1, "peak": 1},
            "size_bytes": 1,
        }
        for name, own, milliseconds in (
            ("fp32", traits(32, "float32", "eager"), 40.0),
            ("bf16-compiled", traits(32, "float32"), 2.0),
            ("int8-w8a8", traits(16, "bfloat16", "eager"), 3.0),
            ("half", traits(16, "bfloat16"), 10.0),
            ("mine", traits(8, "int8"), 8.0),
        )
    }
    recipes = {
        name: {"traits": found["traits"], **estimates.speed_and_size(name, timed, params.report)}
        for name, found in timed.items()
    }
    assert recipes["mine"]["vs_bf16_compiled_b8_x"] == 1.25
    assert recipes["mine"]["vs_bf16_compiled_b8_ci95_x"] == [1.25, 1.25]
    assert not [key for key in recipes["half"] if key.startswith("vs_")]
    device["studies"]["tiny-imagenet"] |= {"recipes": recipes, "profile": {}}
    contents = gpu_section.read(write(tmp_path, device))
    text = gpu_section.section(contents)
    assert "Does the best 8-bit recipe beat `half`?\n\n- Batch 8: yes. `mine` is faster: 1.25 [1.25, 1.25] ×" in text
    assert gpu_section.answer(contents, "tiny-imagenet") == (
        "On an NVIDIA H200, `vit_base_patch14_dinov2`'s best 8-bit recipe is, against `half`, faster at batch 8."
    )


def test_a_recipe_has_8_bits_by_its_traits_not_by_its_name(tmp_path: Path, device: dict) -> None:
    device["studies"]["tiny-imagenet"]["recipes"]["int8-compiled"]["traits"] = traits(32, "float32")
    assert "one of the two was not timed" in gpu_section.section(gpu_section.read(write(tmp_path, device)))


def test_the_answer_has_a_sentence_per_device(tmp_path: Path, device: dict) -> None:
    contents = gpu_section.read(write(tmp_path, device))
    assert gpu_section.answer(contents, "tiny-imagenet") == (
        "On an NVIDIA H200, `vit_base_patch14_dinov2`'s best 8-bit recipe is, against `bf16-compiled`, "
        "faster at batch 128 and fastest of the 8-bit ones, without an interval to decide at batch 1."
    )
    assert gpu_section.answer({}, "tiny-imagenet") == ""


def test_two_devices(tmp_path: Path, device: dict) -> None:
    other = copy.deepcopy(device) | {"device": "NVIDIA T4"}
    other["studies"]["tiny-imagenet"]["environment"]["gpu"] = "NVIDIA T4"
    text = gpu_section.section(gpu_section.read(write(tmp_path, device, other)))
    assert text.index("### NVIDIA H200") < text.index("### NVIDIA T4")


def test_the_audit_takes_the_seeds_own_study_and_pytorchs_own_words(
    params: Params, prepared: Prepared, tmp_path: Path, device: dict
) -> None:
    inputs = handmade.stages(prepared, tmp_path)
    write(inputs.cuda, device)
    text = build.markdown(params, build.read(params, inputs), [])
    row = next(line for line in text.splitlines() if line.startswith("| top-1, FP32"))
    assert "84.00 [83.00, 85.00] % (`vit_base_patch14_dinov2` on tiny-imagenet, 2,000 images, NVIDIA H200)" in row
    assert f"**{claims.EXCEEDED}**" in row
    row = next(line for line in text.splitlines() if line.startswith("| where it ran"))
    assert f"on NVIDIA H200 PyTorch says: {ERROR}" in row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda device: device.pop("device"), "gpu0.json is not a CUDA benchmark ('device')"),
        (lambda device: device["studies"]["tiny-imagenet"].pop("study"), "gpu0.json is not a CUDA benchmark ('study')"),
        (
            lambda device: device["studies"]["tiny-imagenet"]["environment"].update(gpu="NVIDIA T4"),
            "gpu0.json mixes machines: study tiny-imagenet was measured on NVIDIA T4, the file is of NVIDIA H200",
        ),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, device: dict, change, message: str) -> None:
    change(device)
    with pytest.raises(VitquantError) as error:
        gpu_section.read(write(tmp_path, device))
    assert message in str(error.value)


def test_a_file_of_an_earlier_version_which_knew_no_traits(
    params: Params, prepared: Prepared, tmp_path: Path, device: dict
) -> None:
    """Not even a recipe that could not be measured may lack them; nothing is written before that is known."""
    del device["studies"]["tiny-imagenet"]["recipes"]["fp8-compiled"]["traits"]
    inputs = handmade.stages(prepared, tmp_path / "stages")
    write(inputs.cuda, device)
    with pytest.raises(VitquantError) as error:
        build.report(params, inputs, tmp_path / "out")
    assert str(error.value) == (
        f"{inputs.cuda / 'gpu0.json'} is not a CUDA benchmark (a recipe's results: no traits, "
        "as in an earlier version's results: measure again): delete it and measure again"
    )
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_device_are_refused(tmp_path: Path, device: dict) -> None:
    with pytest.raises(VitquantError, match=r"gpu0.json and .*gpu1.json are both of NVIDIA H200"):
        gpu_section.read(write(tmp_path, device, device))
