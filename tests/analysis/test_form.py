"""Files of results: what is written is read as equal, and what does not fit is one line that names file and key."""

import json
from pathlib import Path
from typing import Any

import handmade
import pytest
from handmade import BF16_COMPILED, CONDITIONS, DIGEST, ENVIRONMENT, FACTS, INT8, MACHINE

from vitquant import files
from vitquant.analysis.details import ClassRow, Details, ImageRow
from vitquant.analysis.findings import Device, Estimate, Findings
from vitquant.errors import VitquantError
from vitquant.results import form
from vitquant.results.accuracy import Accuracy, Predicted
from vitquant.results.benchmark import Benchmark, Benchmarked, Measured, Memory
from vitquant.results.form import ResultFile
from vitquant.results.gpu import Gpu, GpuStudy
from vitquant.results.profile import Profile
from vitquant.results.tails import Tails
from vitquant.traits import FP32

ON_A_GPU = ENVIRONMENT.model_copy(
    update={"gpu": "T4", "driver": "1", "clock_sm_mhz": (300, 1590), "throttling": ["power"], "cpu_quota": 1.5}
)
EVERY_KIND = {
    "a benchmark": handmade.benchmark(),
    "why it was not measured": Benchmark(
        environment=ENVIRONMENT,
        conditions=[CONDITIONS.model_copy(update={"cpu_mhz": None})],
        products_per_image=1,
        recipes={"int8": Benchmarked(traits=INT8, unavailable="no VNNI")},
        unavailable_register_rate="no compiler",
    ),
    "an accuracy": Accuracy(
        recipe="int8",
        traits=INT8,
        predicted=Predicted(
            device="cuda", images=24, logits_sha256=DIGEST, artifact_sha256=DIGEST, environment=MACHINE
        ),
        details={"engine": "x86", "layers": [1, 2.5]},
    ),
    "no accuracy": Accuracy(recipe="fp32", traits=FP32, unavailable="the head was never trained"),
    "a profile": Profile(environment=ENVIRONMENT, batch=1, recipes={"fp32": {"linear layers": 9.5, "other": 0.0}}),
    "tails": handmade.tails(),
    "no tails": Tails(unavailable="nothing is recommended"),
    "a GPU": Gpu(
        device="T4",
        quantize_dynamic="no kernel",
        studies={
            "sample": GpuStudy(
                environment=ON_A_GPU,
                conditions=[CONDITIONS],
                repeated=[CONDITIONS],
                copy_ms={1: 0.5},
                idle_w=0.5,
                products_per_image=10,
                recipes={
                    "bf16": Benchmarked(
                        traits=BF16_COMPILED,
                        measured=Measured(
                            artifact_sha256=DIGEST,
                            size_bytes=1,
                            memory_bytes=[Memory(model=-1, load_peak=2, peak={1: 2})],
                            latency_ms={1: [[1.0, 2.0]]},
                            unavailable_batches={256: "out of memory"},
                            process_memory_bytes=3,
                            energy_mj={1: 0.5},
                            logits_sha256=DIGEST,
                        ),
                    )
                },
                date="2026-01-01",
                study=FACTS,
                profile={"bf16": {"gemm": 1.0}},
            )
        },
    ),
    "findings": Findings(
        study=handmade.study(),
        gpus=[Device(device="T4", quantize_dynamic="no kernel", studies={"sample": handmade.study()})],
    ),
    "details": Details(
        per_class={
            "int8": [
                ClassRow(
                    name="disc",
                    images=4,
                    fp32_top1_pct=75.0,
                    top1_pct=50.0,
                    top1_delta=Estimate(value=-25.0, low=-75.0, high=0.0, unit="pp"),
                )
            ]
        },
        disagreement={
            "int8": [
                ImageRow(
                    row=3, image="disc/3.png", true_class="disc", fp32="disc", fp32_probability=0.9, recipe="square",
                    recipe_probability=0.5, distance=0.4,
                )
            ]
        },
    ),
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """The JSON of `handmade.benchmark` with another value at a key, whose parts stand between slashes."""
    content = form.dump(handmade.benchmark())
    *parents, key = path.split("/")
    place = content
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    place[key] = value
    return content


def refused(tmp_path: Path, text: str) -> str:
    """What is said of a benchmark's file with this text, after the file's name."""
    file = tmp_path / "benchmark.json"
    file.write_text(text)
    with pytest.raises(VitquantError) as error:
        form.read(file, Benchmark)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(file))
    return message.removeprefix(str(file)).lstrip(": ")


@pytest.mark.parametrize("result", EVERY_KIND.values(), ids=EVERY_KIND)
def test_what_is_written_is_read_as_equal(result: ResultFile, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    form.write(file, result)
    assert form.read(file, type(result)) == result
    assert files.read_json(file)["version"] == form.VERSION
    assert "null" not in file.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has version 1 of the format, this is vitquant with version 3: measure again with `dvc repro`"),
        ({"version": 4}, "has version 4 of the format"),
        ({"version": "3"}, "has version '3' of the format"),
        ([], "is no file of results"),
        (None, "is no file of results"),
    ],
)
def test_another_version_is_refused(tmp_path: Path, content: object, message: str) -> None:
    assert refused(tmp_path, json.dumps(content)).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("speed", 1.0, "speed: unknown key"),
        ("recipes/fp32/measured/speed", 1.0, "recipes.fp32.measured.speed: unknown key"),
        ("products_per_image", "9", "products_per_image: Input should be a valid integer (got '9')"),
        ("products_per_image", True, "products_per_image: Input should be a valid integer (got True)"),
        ("recipes/fp32", None, "recipes.fp32: Input should be an object (got None)"),
        ("recipes/fp32/traits/arithmetic", "roman", "recipes.fp32.traits.arithmetic: Input should be 'float32', "),
        ("recipes/fp32/measured/artifact_sha256", "ab", "recipes.fp32.measured.artifact_sha256: String should match"),
        ("recipes/fp32/measured/latency_ms/8", [[1.0, -1.0]], "recipes.fp32.measured.latency_ms.8.0.1: Input"),
        ("recipes/fp32/measured/latency_ms/8", [[]], "recipes.fp32.measured.latency_ms.8.0: List should have"),
        ("recipes/fp32/measured/latency_ms/0", [[1.0, 1.0]], "recipes.fp32.measured.latency_ms.0: Input should be"),
        ("recipes/fp32/measured/trials", {"1": {"whole_ms": 1.0, "split_ms": 1.0}}, "recipes.fp32.measured.trials: "),
        ("recipes/fp32/measured/memory_bytes", [{"model": 1, "load_peak": 1}] * 9, "recipes.fp32.measured: latency_ms"),
        ("recipes/fp32/measured/from_file_ms", [[1.0] * 99], "recipes.fp32.measured: "),
        ("recipes/fp32/measured/energy_mj", {"1": 1.0}, "recipes.fp32 has energy_mj, but there is no idle_w to take"),
        ("recipes/fp32/measured/slow", "too slow", "recipes.fp32 is of 2 launches, and not of 1"),
        ("conditions/0/steal_pct", float("nan"), "conditions.0.steal_pct: Input should be a finite number (got nan)"),
        ("conditions/0/seconds", float("inf"), "conditions.0.seconds: Input should be a finite number (got inf)"),
    ],
)  # fmt: skip
def test_a_key_or_value_that_does_not_belong_there_is_named(tmp_path: Path, key: str, value: Any, message: str) -> None:
    assert refused(tmp_path, json.dumps(changed(key, value))).startswith(message)


def test_one_round_of_one_launch_has_no_interval(tmp_path: Path) -> None:
    content = form.dump(handmade.benchmark())
    baseline, slow = (content["recipes"][name]["measured"] for name in ("fp32", "dynamic-int8"))
    baseline |= {"latency_ms": {"1": [[1.0], [1.0]]}, "from_file_ms": [], "trials": {}}
    slow |= {"slow": "why", "memory_bytes": slow["memory_bytes"][:1], "from_file_ms": [], "trials": {}}
    slow["latency_ms"] = {"1": [[1.0, 1.0]]}
    assert refused(tmp_path, json.dumps(content)).startswith("recipes.dynamic-int8 shares one round at batch 1")
    slow["latency_ms"] = {"1": [[1.0]]}
    assert refused(tmp_path, json.dumps(content)).startswith("recipes.dynamic-int8.measured: latency_ms holds one pass")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    content = form.dump(handmade.benchmark())
    del content["environment"]["host"]
    assert refused(tmp_path, json.dumps(content)) == "environment.host: missing: measure again with `dvc repro`"


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "{").startswith("is not valid JSON (")
    assert refused(tmp_path, '{"version": 3, "recipes": ' + "[" * 300 + "]" * 300 + "}").startswith(
        "Invalid JSON: recursion"
    )
    with pytest.raises(VitquantError, match="nowhere.json is missing: run `dvc repro` to make it"):
        form.read(tmp_path / "nowhere.json", Benchmark)


@pytest.mark.parametrize(
    ("value", "low", "high", "unit"),
    [(1.0, 2.0, 1.0, "ms"), (1.0, 0.0, 2.0, "×"), (-1.0, 1.0, 2.0, "×"), (1.0, 1.0, 1.0, "kg")],
)
def test_an_estimate_that_cannot_be_is_refused(value: float, low: float, high: float, unit: str) -> None:
    content = form.dump(handmade.findings())
    content["study"]["recipes"]["fp32"]["speeds"]["8"]["mean"] = {
        "value": value,
        "low": low,
        "high": high,
        "unit": unit,
    }
    with pytest.raises(VitquantError, match=r"^findings: study\.recipes\.fp32\.speeds\.8\.mean[.:].*: measure again"):
        form.parse(content, Findings, "findings")
