"""The report over results whose statistics are known beforehand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitquant import files
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy
from vitquant.params import Params
from vitquant.report import build, metrics, tables
from vitquant.report.metrics import Inputs

FP32_MS = [100.0, 110.0, 90.0, 105.0]


@pytest.fixture
def inputs(prepared: Prepared, tmp_path: Path) -> Inputs:
    """FP32 is right on 20 of 24 images; INT8 loses two of those, gains none, and is 2.5 times as fast."""
    labels = prepared.labels("val")
    inputs = Inputs(prepared.path, tmp_path / "accuracy", tmp_path / "predictions", tmp_path / "benchmark.json")
    for name, right in (("fp32", 20), ("dynamic-int8", 18)):
        predicted = np.where(np.arange(24) < right, labels, (labels + 1) % 6)
        logits = np.eye(6, dtype=np.float32)[predicted] + 0.5 * np.eye(6, dtype=np.float32)[labels]
        summary = {"recipe": name, **accuracy.summarize(logits, labels), "device": "cpu", "details": {}}
        accuracy.write(summary, logits, inputs.accuracy / f"{name}.json", inputs.predictions / f"{name}.npz")
    files.write_json(
        inputs.benchmark,
        {
            "environment": {"cpu": "Abacus", "isa": ["beads"], "threads": 2, "git_commit": "0" * 40},
            "recipes": {
                "fp32": {
                    "latency_ms": {"1": FP32_MS, "8": [8 * ms for ms in FP32_MS]},
                    "memory_bytes": {"model": 100_000_000, "peak": 120_000_000},
                    "size_bytes": 80_000_000,
                },
                "dynamic-int8": {
                    "latency_ms": {"1": [ms / 2.5 for ms in FP32_MS], "8": [ms * 4 for ms in FP32_MS]},
                    "memory_bytes": {"model": 50_000_000, "peak": 60_000_000},
                    "size_bytes": 20_000_000,
                },
            },
        },
    )
    return inputs


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_metrics_follow_the_schema(params: Params, inputs: Inputs) -> None:
    joined = metrics.join(params, inputs)
    assert joined["study"] == {
        "name": "mini",
        "model": "test_vit",
        "data": "folder",
        "eval_images": 24,
        "classes": 6,
    }
    fp32, int8 = joined["recipes"]["fp32"], joined["recipes"]["dynamic-int8"]
    assert fp32["top1_pct"] == 83.33
    assert "top1_delta_pp" not in fp32
    assert int8["top1_delta_pp"] == pytest.approx(-8.33)
    assert int8["top1_delta_ci95_pp"][0] < -8.33 < int8["top1_delta_ci95_pp"][1] <= 0
    assert int8["mcnemar_p"] == 0.5  # two discordant images, both lost
    assert int8["agreement_pct"] == 91.67
    assert fp32["latency_b1_ms_p50"] == 102.5
    assert fp32["throughput_b8_img_s"] == pytest.approx(1000 / 102.5, abs=0.01)
    assert int8["speedup_b1_x"] == 2.5
    assert int8["speedup_b8_ci95_x"] == [2.0, 2.0]
    assert (int8["memory_model_mb"], int8["memory_peak_mb"]) == (50.0, 60.0)
    assert (int8["size_mb"], int8["size_reduction_pct"]) == (20.0, 75.0)
    assert "unavailable" not in int8


def test_the_report_is_written(params: Params, inputs: Inputs, tmp_path: Path) -> None:
    build.report(params, inputs, tmp_path / "metrics.json", tmp_path / "report.md", tmp_path / "figures")
    text = (tmp_path / "report.md").read_text()
    assert "$" not in text
    assert "| dynamic-int8 |" in text
    assert "2.50 × [2.50, 2.50] as fast at batch 1; 75.0 % smaller" in text
    linked = re.findall(r"!\[(.+)\]\((.+)\)", text)
    assert len(linked) == 2
    for description, file in linked:
        assert len(description) > 20
        with Image.open(tmp_path / file) as image:
            assert image.width >= 1000
        assert (tmp_path / file).with_suffix(".svg").read_text().startswith("<?xml")
    assert files.read_json(tmp_path / "metrics.json") == metrics.join(params, inputs)


def test_the_report_says_where_accuracy_was_measured(params: Params, inputs: Inputs) -> None:
    joined = metrics.join(params, inputs)
    assert build._accuracy_device(joined) == "the CPU"
    joined["recipes"]["fp32"]["accuracy_device"] = "cuda"
    joined["environment"]["gpu"] = "T4"
    assert build._accuracy_device(joined) == "the GPU, T4 (`fp32`); the CPU (`dynamic-int8`)"


def test_the_same_results_give_the_same_files(params: Params, inputs: Inputs, tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        build.report(params, inputs, folder / "metrics.json", folder / "report.md", folder / "figures")
    for file in (path for path in (tmp_path / "one").rglob("*") if path.is_file()):
        assert (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes() == file.read_bytes()


def test_a_difference_within_its_interval_is_no_loss(params: Params, inputs: Inputs) -> None:
    recipe = metrics.join(params, inputs)["recipes"]["dynamic-int8"]
    for interval, words in (([-4.0, 0.5], "not distinguishable"), ([-4.0, -0.5], "a loss"), ([0.5, 2.0], "a gain")):
        assert words in build._answer("r", recipe | {"top1_delta_ci95_pp": interval})


def test_what_could_not_be_measured_is_absent_and_explained(params: Params, inputs: Inputs, tmp_path: Path) -> None:
    files_of = (inputs.accuracy / "dynamic-int8.json", inputs.predictions / "dynamic-int8.npz")
    accuracy.write_unavailable("dynamic-int8", "no VNNI", *files_of)
    recipes = files.read_json(inputs.benchmark)["recipes"]
    change(inputs.benchmark, recipes={"fp32": recipes["fp32"], "dynamic-int8": {"unavailable": "no VNNI"}})
    joined = metrics.join(params, inputs)
    assert joined["recipes"]["dynamic-int8"] == {"unavailable": {"accuracy": "no VNNI", "benchmark": "no VNNI"}}
    assert "`dynamic-int8`, benchmark: no VNNI" in tables.unavailable(joined)
    build.report(params, inputs, tmp_path / "metrics.json", tmp_path / "report.md", tmp_path / "figures")
    assert "`dynamic-int8`: could not be measured here" in (tmp_path / "report.md").read_text()


def test_speed_without_accuracy_and_accuracy_without_speed(params: Params, inputs: Inputs, tmp_path: Path) -> None:
    recipes = files.read_json(inputs.benchmark)["recipes"]
    change(inputs.benchmark, recipes={"fp32": recipes["fp32"], "dynamic-int8": {"unavailable": "killed"}})
    build.report(params, inputs, tmp_path / "metrics.json", tmp_path / "report.md", tmp_path / "figures")
    answer = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("- `dyn"))
    assert "top-1 -8.33 pp" in answer
    assert "fast" not in answer


def test_results_that_are_missing_or_broken(params: Params, inputs: Inputs) -> None:
    (inputs.predictions / "fp32.npz").write_bytes(b"half")
    with pytest.raises(VitquantError, match=r"fp32.npz cannot be read .*dvc repro"):
        metrics.join(params, inputs)
    inputs.benchmark.unlink()
    with pytest.raises(VitquantError, match=r"benchmark.json is missing"):
        metrics.join(params, inputs)


def test_a_baseline_that_could_not_be_measured_is_an_error(params: Params, inputs: Inputs) -> None:
    recipes = files.read_json(inputs.benchmark)["recipes"]
    change(inputs.benchmark, recipes=recipes | {"fp32": {"unavailable": "killed"}})
    with pytest.raises(VitquantError, match="fp32, .*, could not be benchmarked: killed"):
        metrics.join(params, inputs)


def test_a_study_without_accuracy_reports_speed_and_why(params: Params, inputs: Inputs, tmp_path: Path) -> None:
    for name in ("fp32", "dynamic-int8"):
        accuracy.write_unavailable(
            name, "untrained head", inputs.accuracy / f"{name}.json", inputs.predictions / f"{name}.npz"
        )
    build.report(params, inputs, tmp_path / "metrics.json", tmp_path / "report.md", tmp_path / "figures")
    text = (tmp_path / "report.md").read_text()
    assert "`fp32`, accuracy: untrained head" in text
    assert "- `dynamic-int8`: 2.50 × [2.50, 2.50] as fast at batch 1; 75.0 % smaller." in text
    assert files.read_json(tmp_path / "metrics.json")["recipes"]["fp32"]["size_mb"] == 80.0
