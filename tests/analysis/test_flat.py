"""The findings as flat keys, which other tools read: metrics.json, summary.json, plots and results.csv."""

import io
from pathlib import Path

import handmade
import numpy as np
import pandas as pd
import pytest
from handmade import ENVIRONMENT, FACTS, INT8, SIZES

from vitquant.analysis import flat
from vitquant.analysis.findings import Device, Findings, Recipe, Study
from vitquant.results import form

OF_A_BATCH = {
    "latency_{b}_mean_ms", "latency_{b}_mean_ci95_ms", "latency_{b}_ms_p50", "latency_{b}_ms_p90",
    "latency_{b}_ms_p99", "latency_{b}_spread_pct", "throughput_{b}_img_s",
}  # fmt: skip
ALONE = {
    "traits", "accuracy_device", "top1_pct", "top1_ci95_pct", "top5_pct", "top5_ci95_pct", "memory_model_mb",
    "memory_peak_mb", "size_mb",
}  # fmt: skip
RIVALS = {
    "vs_fastest_other_{b}_x", "vs_fastest_other_{b}_ci95_x", "vs_best_float_{b}_x", "vs_best_float_{b}_ci95_x",
}  # fmt: skip
RATIOS = {"speedup_{b}_x", "speedup_{b}_ci95_x"}
BESIDE_FP32 = {
    "top1_delta_pp", "top1_delta_ci95_pp", "top5_delta_pp", "top5_delta_ci95_pp", "mcnemar_p", "holm_p",
    "gained_images", "lost_images", "agreement_pct",
    "class_token_mean_cosine", "class_token_p1_cosine", "class_token_least_cosine", "size_reduction_pct",
}  # fmt: skip
ABSENT = Recipe(traits=INT8, unavailable={"benchmark": "no VNNI"})


@pytest.fixture
def study() -> Study:
    return handmade.with_recipe(handmade.study(), "absent", ABSENT)


def of_batches(keys: set[str]) -> set[str]:
    return {key.format(b=f"b{size}") for key in keys for size in SIZES}


def test_the_keys_of_metrics_json(study: Study) -> None:
    content = flat.metrics(study)
    assert set(content) == {"study", "environment", "recipes"}
    assert set(content["study"]) == {"name", "model", "data", "eval_images", "classes"}
    recipes = content["recipes"]
    assert list(recipes) == list(study.recipes)
    assert set(recipes["fp32"]) == ALONE | of_batches(OF_A_BATCH | RIVALS)
    assert set(recipes["dynamic-int8"]) == ALONE | BESIDE_FP32 | of_batches(OF_A_BATCH | RIVALS | RATIOS)
    assert set(recipes["bf16-compiled"]) == set(recipes["dynamic-int8"])
    assert recipes["absent"] == {"traits": INT8.model_dump(mode="json"), "unavailable": {"benchmark": "no VNNI"}}


def test_the_values_of_metrics_json(study: Study) -> None:
    content = flat.metrics(study)
    assert content["study"] == FACTS.model_dump(exclude={"crop", "embedding"})
    assert content["environment"]["torch"] == ENVIRONMENT.torch
    int8 = content["recipes"]["dynamic-int8"]
    assert (int8["top1_delta_pp"], int8["top1_delta_ci95_pp"]) == (-1.7, pytest.approx([-2.1, -1.3]))
    assert (int8["speedup_b8_x"], int8["speedup_b8_ci95_x"]) == (2.4, pytest.approx([2.352, 2.448]))
    assert int8["latency_b8_ms_p50"] == pytest.approx(8 * 80 / 2.4)
    assert (int8["memory_peak_mb"], int8["size_mb"], int8["accuracy_device"]) == (86.0, 22.9, "cpu")


def test_metrics_json_is_the_same_of_findings_that_were_kept(study: Study, tmp_path: Path) -> None:
    form.write(tmp_path / "findings.json", Findings(study=study))
    assert flat.metrics(form.read(tmp_path / "findings.json", Findings).study) == flat.metrics(study)


def test_the_summary_has_what_was_measured_of_three_values(study: Study) -> None:
    summary = flat.summary(study)
    assert list(summary) == list(study.recipes)
    assert summary["fp32"] == {"top1_pct": 76.0, "size_mb": 86.6}
    assert summary["dynamic-int8"] == {"top1_pct": 74.3, "speedup_b1_x": 2.4, "size_mb": 22.9}
    assert summary["absent"] == {}


def test_a_plot_has_the_recipes_with_an_interval(study: Study) -> None:
    plots = flat.plots(study)
    assert set(plots) == {"accuracy", "speedup"}
    for rows in plots.values():
        assert [row["recipe"] for row in rows] == [name for name in study.recipes if name not in ("fp32", "absent")]
    [row] = [row for row in plots["accuracy"] if row["recipe"] == "static-int8"]
    assert row == {"recipe": "static-int8", "value": -1.4, "low": pytest.approx(-1.8), "high": pytest.approx(-1.0)}
    assert next(row["value"] for row in plots["speedup"] if row["recipe"] == "static-int8") == 2.8


@pytest.fixture
def table(study: Study) -> pd.DataFrame:
    """results.csv of the study, and of one on a GPU."""
    facts = FACTS.model_copy(update={"name": 'else, "where"\nelse', "eval_images": 2000})
    other = study.model_copy(update={"facts": facts})
    other = handmade.with_recipe(other, "static-int8", None)
    gpu = Device(device="T4", quantize_dynamic="no kernel", studies={"else": other})
    return pd.read_csv(io.StringIO(flat.table(Findings(study=study, gpus=[gpu]))))


def test_the_table_has_a_row_per_device_recipe_and_batch_size(table: pd.DataFrame, study: Study) -> None:
    timed = [name for name in study.recipes if name != "absent"]
    expected = [("cpu", name, size) for name in timed for size in SIZES]
    expected += [("T4", name, size) for name in timed for size in SIZES if name != "static-int8"]
    rows = table[table.batch.notna()]
    assert sorted(zip(rows.device, rows.recipe, rows.batch, strict=True)) == sorted(expected)
    absent = table[table.recipe == "absent"]
    assert list(absent.device) == ["cpu", "T4"]
    assert absent.batch.isna().all()
    assert absent.weight_bits.tolist() == [8, 8]
    assert set(table[table.device == "T4"].study) == {'else, "where" else'}  # on one line
    assert set(table[table.device == "T4"].images) == {2000}


def test_the_tables_header_has_units_and_the_ends_of_intervals(table: pd.DataFrame) -> None:
    fixed = [
        "device",
        "host_cpu",
        "git_commit",
        "study",
        "model",
        "images",
        "recipe",
        "weight_bits",
        "activation_bits",
        "arithmetic",
        "execution",
        "batch",
        "way",
        "fastest_other",
        "best_float",
    ]
    assert list(table.columns[: len(fixed)]) == fixed
    ends = (
        "_ms",
        "_pct",
        "_pp",
        "_x",
        "_mb",
        "_img",
        "_s",
        "_p50",
        "_p90",
        "_p99",
        "_cosine",
        "mcnemar_p",
        "holm_p",
        "_images",
    )
    assert [name for name in table.columns[len(fixed) :] if not name.endswith(ends)] == []
    assert len(set(table.columns)) == len(table.columns)
    for name, unit in (
        ("top1", "pct"),
        ("top5", "pct"),
        ("top1_delta", "pp"),
        ("top5_delta", "pp"),
        ("latency_mean", "ms"),
        ("speedup", "x"),
        ("vs_fastest_other", "x"),
        ("vs_best_float", "x"),
    ):
        value, low, high = (table[f"{name}{end}_{unit}"] for end in ("", "_low", "_high"))
        assert value.notna().any()
        assert ((low <= value) & (value <= high) | value.isna()).all()
        assert (value.notna() == low.notna()).all()


def test_the_tables_values(table: pd.DataFrame) -> None:
    [row] = table[(table.device == "cpu") & (table.recipe == "dynamic-int8") & (table.batch == 8)].to_dict("records")
    assert (row["fastest_other"], row["best_float"]) == ("vitquant-int8", "bf16-compiled")
    assert (row["arithmetic"], row["execution"], row["images"]) == ("int8", "eager", 1050)
    assert row["latency_ms_p50"] == pytest.approx(8 * 80 / 2.4)
    assert (row["speedup_x"], row["speedup_low_x"], row["speedup_high_x"]) == pytest.approx((2.4, 2.352, 2.448))
    assert (row["vs_best_float_x"], row["top1_delta_pp"], row["size_mb"]) == (1.2, -1.7, 22.9)
    assert np.isnan(row["energy_mj_img"])
