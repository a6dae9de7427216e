"""The report over results whose statistics are known beforehand."""

import dataclasses
import html
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import handmade
import matplotlib as mpl
import numpy as np
import pytest
from handmade import INT8
from PIL import Image

from vitquant import files
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy
from vitquant.params import Params
from vitquant.report import build, metrics, prose, style, tables
from vitquant.report.metrics import Inputs
from vitquant.traits import FP32

NAMES = ("fp32", "dynamic-int8")


@pytest.fixture
def inputs(prepared: Prepared, tmp_path: Path) -> Inputs:
    """For the test to change."""
    return handmade.stages(prepared, tmp_path / "stages")


@pytest.fixture(scope="module")
def written(params: Params, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `report` writes of such inputs, for reading only."""
    folder = tmp_path_factory.mktemp("written")
    build.report(params, handmade.stages(prepared, folder / "stages"), folder / "out")
    return folder / "out"


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def not_timed(inputs: Inputs, name: str, reason: str) -> None:
    recipes = files.read_json(inputs.benchmark)["recipes"]
    change(inputs.benchmark, recipes=recipes | {name: {"traits": recipes[name]["traits"], "unavailable": reason}})


def not_evaluated(inputs: Inputs, name: str, reason: str) -> None:
    results = inputs.accuracy / f"{name}.json", inputs.predictions / f"{name}.npz"
    accuracy.write_unavailable(name, FP32 if name == "fp32" else INT8, reason, *results)


def text(params: Params, inputs: Inputs) -> str:
    """report.md without figures, so that nothing is drawn."""
    return build.markdown(params, build.read(params, inputs), [])


def join(params: Params, inputs: Inputs) -> dict:
    return metrics.join(params, inputs, metrics.read_logits(params, inputs.predictions))


def test_the_metrics_follow_the_schema(params: Params, inputs: Inputs) -> None:
    joined = join(params, inputs)
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


def test_the_report_is_written(params: Params, inputs: Inputs, written: Path) -> None:
    text = (written / "report.md").read_text()
    assert "$" not in text
    assert "| dynamic-int8 |" in text
    assert "`dynamic-int8` has 2.50 [2.50, 2.50] × the speed of `fp32` at batch 1 (faster;" in text
    assert "ships 20.0 MB for 80.0 MB (75.0 % smaller)" in text
    linked = re.findall(r"!\[(.+)\]\((.+)\)", text)
    assert len(linked) == 9
    for description, file in linked:
        assert len(description) > 20
        with Image.open(written / file) as image:
            assert image.width >= 1000
        assert (written / file).with_suffix(".svg").read_text().startswith("<?xml")
    assert files.read_json(written / "metrics.json") == join(params, inputs)


def test_the_report_says_where_accuracy_was_measured(params: Params, inputs: Inputs) -> None:
    joined = join(params, inputs)
    assert prose.accuracy_device(joined) == "the CPU"
    joined["recipes"]["fp32"]["accuracy_device"] = "cuda"
    joined["environment"]["gpu"] = "T4"
    assert prose.accuracy_device(joined) == "the GPU, T4 (`fp32`); the CPU (`dynamic-int8`)"


def test_the_same_results_give_the_same_files(params: Params, inputs: Inputs, written: Path, tmp_path: Path) -> None:
    """Those of `written`, built anew."""
    build.report(params, inputs, tmp_path / "anew")
    first, second = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (written, tmp_path / "anew")
    )
    assert first == second


def test_what_could_not_be_measured_is_absent_and_explained(params: Params, inputs: Inputs) -> None:
    not_evaluated(inputs, "dynamic-int8", "no VNNI")
    not_timed(inputs, "dynamic-int8", "no VNNI")
    joined = join(params, inputs)
    assert joined["recipes"]["dynamic-int8"] == {
        "traits": INT8.model_dump(mode="json"),
        "unavailable": {"accuracy": "no VNNI", "benchmark": "no VNNI"},
    }
    assert "- benchmark of `dynamic-int8`: no VNNI" in tables.unavailable(joined["recipes"])
    shown = text(params, inputs)
    assert "`dynamic-int8` was not timed: see below" in shown
    assert "- benchmark of `dynamic-int8`: no VNNI" in shown


def test_accuracy_without_speed(params: Params, inputs: Inputs) -> None:
    not_timed(inputs, "dynamic-int8", "killed")
    shown = text(params, inputs)
    assert "**Accuracy:** `dynamic-int8` differs in top-1 by -8.33 [" in shown
    assert "**Speed:** `dynamic-int8` was not timed: see below." in shown


@pytest.mark.parametrize(
    ("recipes", "untimed", "unevaluated"),
    [
        (NAMES, ["dynamic-int8"], ["dynamic-int8"]),
        (NAMES, ["dynamic-int8"], []),
        (NAMES, [], ["dynamic-int8"]),
        (NAMES, [], NAMES),
        (["fp32"], [], []),
    ],
)
def test_every_study_has_all_figures(
    params: Params, inputs: Inputs, recipes: Sequence[str], untimed: Sequence[str], unevaluated: Sequence[str]
) -> None:
    """What there is nothing to draw of says so; figures are laid out, as `figures.draw` does before it writes them."""
    for name in untimed:
        not_timed(inputs, name, "killed")
    for name in unevaluated:
        not_evaluated(inputs, name, "untrained head")
    study = params.model_copy(update={"recipes": {name: params.recipes[name] for name in recipes}})
    names = []
    with mpl.rc_context(style.STYLE):
        for name, _, figure in build.drawings(build.read(study, inputs)):
            figure.draw_without_rendering()
            names.append(name)
    assert len(set(names)) == 9


def test_results_that_are_missing_or_broken(params: Params, inputs: Inputs) -> None:
    (inputs.predictions / "fp32.npz").write_bytes(b"half")
    with pytest.raises(VitquantError, match=r"fp32.npz cannot be read .*dvc repro"):
        join(params, inputs)


def test_a_missing_benchmark(params: Params, inputs: Inputs) -> None:
    inputs.benchmark.unlink()
    with pytest.raises(VitquantError, match=r"benchmark.json is missing"):
        join(params, inputs)


def test_a_baseline_that_could_not_be_measured_is_an_error(params: Params, inputs: Inputs) -> None:
    not_timed(inputs, "fp32", "killed")
    with pytest.raises(VitquantError, match="fp32, .*, could not be benchmarked: killed"):
        join(params, inputs)


def test_a_study_without_accuracy_reports_speed_and_why(params: Params, inputs: Inputs) -> None:
    for name in NAMES:
        not_evaluated(inputs, name, "untrained head")
    shown = text(params, inputs)
    assert "accuracy of `fp32`, `dynamic-int8`: untrained head" in shown
    assert "**Use** no recipe on the strength of this study: accuracy was not measured" in shown
    assert "`dynamic-int8` has 2.50 [2.50, 2.50] × the speed" in shown
    assert join(params, inputs)["recipes"]["fp32"]["size_mb"] == 80.0


def test_a_single_recipe(params: Params, inputs: Inputs) -> None:
    alone = params.model_copy(update={"recipes": {"fp32": params.recipes["fp32"]}})
    shown = text(alone, inputs)
    assert "- The study has no quantized recipe" in shown
    assert "dynamic-int8, batch" not in shown
    assert build.read(alone, inputs).details == {"per_class": {}, "disagreement": {}}


def test_a_quantized_recipe_of_any_name_is_looked_into(params: Params, prepared: Prepared, tmp_path: Path) -> None:
    """Its traits say what it is."""
    recipes = {"fp32": params.recipes["fp32"], "mine": params.recipes["dynamic-int8"]}
    study = params.model_copy(update={"recipes": recipes})
    content = build.read(study, handmade.stages(prepared, tmp_path, int8="mine"))
    assert content.metrics["recipes"]["mine"]["traits"] == INT8.model_dump(mode="json")
    assert (list(content.details["per_class"]), list(content.details["disagreement"])) == (["mine"], ["mine"])
    assert "`mine` has 2.50 [2.50, 2.50] × the speed of `fp32`" in build.markdown(study, content, [])


def test_two_classes_have_no_top5(params: Params, inputs: Inputs, prepared: Prepared, tmp_path: Path) -> None:
    """The same images as two classes."""
    data = tmp_path / "two"
    shutil.copytree(prepared.path, data)
    labels = prepared.labels("val") % 2
    np.save(data / "val_labels.npy", labels)
    files.write_json(data / "classes.json", ["even", "odd"])
    for name, traits, right in (("fp32", FP32, 20), ("dynamic-int8", INT8, 18)):
        logits = np.eye(2, dtype=np.float32)[np.where(np.arange(24) < right, labels, 1 - labels)]
        handmade.write_accuracy(inputs, name, traits, logits, labels)
    shown = text(params, dataclasses.replace(inputs, data=data))
    assert "- top5 of `fp32`, `dynamic-int8`: top-5 of 2 classes is always 100 %" in shown
    assert "| top-5 % |" not in shown
    row = next(line for line in shown.splitlines() if line.startswith("| top-5, difference"))
    assert "**not measured here**" in row
    assert "always 100 %" in row


def test_machines_that_are_mixed_are_refused(params: Params, inputs: Inputs, tmp_path: Path) -> None:
    environment = files.read_json(inputs.benchmark)["environment"]
    files.write_json(inputs.profile, {"environment": environment | {"host": "cellar"}, "recipes": {}})
    with pytest.raises(VitquantError) as error:
        build.report(params, inputs, tmp_path / "out")
    message = f"{inputs.benchmark} and {inputs.profile} were measured on different machines (host: attic, cellar)"
    assert str(error.value) == f"{message}: run `dvc repro`"
    assert not (tmp_path / "out").exists()


def test_accuracy_of_another_machine_is_refused(params: Params, inputs: Inputs) -> None:
    file = inputs.accuracy / "fp32.json"
    change(file, environment={"host": "attic", "cpu": "Slide rule"})
    with pytest.raises(VitquantError, match=r"benchmark.json and .*fp32.json were measured on different machines"):
        join(params, inputs)


def test_artifacts_of_two_commits_are_refused(params: Params, inputs: Inputs) -> None:
    file = inputs.accuracy / "dynamic-int8.json"
    change(file, artifact_sha256="1" * 64)
    recipes = files.read_json(inputs.benchmark)["recipes"]
    recipes["dynamic-int8"]["artifact_sha256"] = "2" * 64
    change(inputs.benchmark, recipes=recipes)
    with pytest.raises(VitquantError, match="are of different artifacts of dynamic-int8") as error:
        join(params, inputs)
    assert str(file) in str(error.value)
    assert str(inputs.benchmark) in str(error.value)


def test_predictions_of_another_run_are_refused(params: Params, inputs: Inputs) -> None:
    file = inputs.accuracy / "fp32.json"
    change(file, top1_pct=50.0)
    with pytest.raises(VitquantError, match=r"says top-1 is 50.0 %, .*fp32.npz gives 83.33 %: .*different runs"):
        join(params, inputs)


def test_predictions_of_other_data_are_refused(params: Params, inputs: Inputs) -> None:
    with (inputs.predictions / "fp32.npz").open("wb") as file:
        np.savez(file, logits=np.zeros((7, 6), np.float32))
    with pytest.raises(VitquantError, match=r"shape \(7, 6\), the prepared data has 24 images of 6 classes"):
        join(params, inputs)


def test_names_that_would_break_markdown_or_html_are_shown_as_they_are(
    params: Params, inputs: Inputs, prepared: Prepared, tmp_path: Path
) -> None:
    name = "<script>alert(1)</script> | `x` *y* $z$ [a](b) & c"
    environment = files.read_json(inputs.benchmark)["environment"]
    change(inputs.benchmark, environment=environment | {"cpu": name})
    data = tmp_path / "data"
    shutil.copytree(prepared.path, data)
    files.write_json(data / "classes.json", [f"{name}{index}" for index in range(6)])
    inputs = dataclasses.replace(inputs, data=data)
    build.report(params.model_copy(update={"study": name}), inputs, tmp_path)
    page = (tmp_path / "report.html").read_text()
    shown = html.escape(name)
    assert f"<title>{shown}: FP32 against INT8</title>" in page
    assert f">{shown}: FP32 against INT8</h1>" in page
    assert f">{shown}</td>" in page
    assert re.search(rf"<td[^>]*>{re.escape(shown)}\d</td>", page)
    assert "<script" not in page


def test_the_summary_that_dvc_compares_is_small(written: Path) -> None:
    assert files.read_json(written / "summary.json") == {
        "fp32": {"top1_pct": 83.33, "size_mb": 80.0},
        "dynamic-int8": {"top1_pct": 75.0, "speedup_b1_x": 2.5, "size_mb": 20.0},
    }


def test_details_name_the_worst_classes_and_the_images(written: Path) -> None:
    """INT8 loses images 18 and 19 of 24; their classes are the worst, and they are the images that moved."""
    found = files.read_json(written / "details.json")
    classes = found["per_class"]["dynamic-int8"]
    assert sum(row["images"] for row in classes) == 24
    assert classes[0]["top1_delta_pp"] < 0
    assert [row["row"] for row in found["disagreement"]["dynamic-int8"][:2]] == [18, 19]
    assert found["disagreement"]["dynamic-int8"][0]["fp32"] == found["disagreement"]["dynamic-int8"][0]["class"]
    assert len(found["disagreement"]["dynamic-int8"]) == 12


def test_the_plots_of_dvc_have_the_intervals(written: Path) -> None:
    speedup = files.read_json(written / "plots/speedup.json")
    assert speedup == [{"recipe": "dynamic-int8", "value": 2.5, "low": 2.5, "high": 2.5}]
    accuracy_difference = files.read_json(written / "plots/accuracy.json")
    assert [row["value"] for row in accuracy_difference] == [-8.33]
