"""The report over results whose statistics are known beforehand."""

import csv
import dataclasses
import html
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
from vitquant.analysis import claims, flat, load, store
from vitquant.analysis.details import Details
from vitquant.analysis.load import Inputs
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy
from vitquant.params import Params
from vitquant.report import build, prose, style, tables
from vitquant.results import form, predictions
from vitquant.results.benchmark import Benchmark, Benchmarked
from vitquant.results.profile import Profile
from vitquant.results.tails import Tails
from vitquant.traits import FP32

NAMES = ("fp32", "dynamic-int8")


@pytest.fixture
def inputs(prepared: Prepared, tmp_path: Path) -> Inputs:
    """For the test to change."""
    return whole(prepared, tmp_path / "stages")


@pytest.fixture(scope="module")
def written(params: Params, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `report` writes of such inputs, for reading only."""
    folder = tmp_path_factory.mktemp("written")
    build.report(params, whole(prepared, folder / "stages"), folder / "out")
    return folder / "out"


def whole(prepared: Prepared, folder: Path) -> Inputs:
    """Results of every stage, and of a GPU."""
    inputs = handmade.stages(prepared, folder)
    kinds = {"linear layers": 20.0, "attention": 3.0, "norms, GELU, quantization, sums": 2.0, "rest": 1.0}
    form.write(inputs.profile, Profile(environment=handmade.ENVIRONMENT, batch=8, recipes={"fp32": kinds}))
    handmade.write_gpu(inputs.cuda, handmade.gpu_study())
    form.write(inputs.tails, handmade.tails())
    return inputs


def not_timed(inputs: Inputs, name: str, reason: str) -> None:
    benchmark = form.read(inputs.benchmark, Benchmark)
    benchmark.recipes[name] = Benchmarked(traits=benchmark.recipes[name].traits, unavailable=reason)
    form.write(inputs.benchmark, benchmark)


def not_evaluated(inputs: Inputs, name: str, reason: str) -> None:
    results = inputs.accuracy / f"{name}.json", inputs.predictions / f"{name}.npz"
    accuracy.write_unavailable(name, FP32 if name == "fp32" else INT8, reason, *results)


def text(params: Params, inputs: Inputs) -> str:
    """report.md without figures, so that nothing is drawn."""
    return build.markdown(params, build.read(params, inputs), [])


def table(markdown: str) -> dict[str, dict[str, str]]:
    """A table's cells by the first cell of their row, and by column."""
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"
    )
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_flat_metrics_hold_the_known_statistics(written: Path) -> None:
    metrics = files.read_json(written / "metrics.json")
    assert metrics["study"] == {
        "name": "mini",
        "model": "test_vit",
        "data": "folder",
        "eval_images": 24,
        "classes": 6,
    }
    fp32, int8 = metrics["recipes"]["fp32"], metrics["recipes"]["dynamic-int8"]
    assert fp32["top1_pct"] == 83.33
    assert "top1_delta_pp" not in fp32
    assert int8["top1_delta_pp"] == pytest.approx(-8.33)
    assert int8["top1_delta_ci95_pp"][0] < -8.33 < 0 < int8["top1_delta_ci95_pp"][1]
    assert (int8["gained_images"], int8["lost_images"]) == (0, 2)
    assert int8["mcnemar_p"] == 0.5  # two discordant images, both lost
    assert int8["agreement_pct"] == 91.67
    assert fp32["latency_b1_ms_p50"] == 102.5
    assert fp32["throughput_b8_img_s"] == pytest.approx(1000 / 102.5, abs=0.01)
    assert int8["speedup_b1_x"] == 2.5
    assert int8["speedup_b8_ci95_x"] == [2.0, 2.0]
    assert (int8["memory_model_mb"], int8["memory_peak_mb"]) == (50.0, 60.0)
    assert (int8["size_mb"], int8["size_reduction_pct"]) == (20.0, 75.0)
    assert "unavailable" not in int8


def test_the_report_is_written(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert "$" not in text
    assert "| dynamic-int8 |" in text
    assert "of `dynamic-int8` against `fp32`, the fastest other recipe, 2.50 [2.50, 2.50] × at batch 1 (faster)" in text
    assert "ships 20.0 MB for 80.0 MB (75.0 % smaller)" in text
    linked = re.findall(r"!\[(.+)\]\((.+)\)", text)
    assert len(linked) == 12
    for description, file in linked:
        assert len(description) > 20
        with Image.open(written / file) as image:
            assert image.width >= 1000
        assert (written / file).with_suffix(".svg").read_text().startswith("<?xml")


def test_what_is_written_is_what_the_report_was_made_from(params: Params, inputs: Inputs, written: Path) -> None:
    content = build.read(params, inputs)
    assert content.findings.gpus[0].studies["tiny-imagenet"].recipes["int8-compiled"].accuracy
    assert store.read(written / "findings.json") == content.findings
    assert form.read(written / "details.json", Details) == content.details
    study = store.read(written / "findings.json").study
    assert files.read_json(written / "metrics.json") == flat.metrics(study)
    assert files.read_json(written / "summary.json") == flat.summary(study)
    assert (written / "results.csv").read_text() == flat.table(content.findings)
    plots = {file.stem: files.read_json(file) for file in (written / "plots").iterdir()}
    assert plots == flat.plots(study)
    assert {path.name for path in written.iterdir()} == {
        "findings.json", "details.json", "metrics.json", "summary.json", "results.csv", "plots", "figures",
        "report.md", "report.html",
    }  # fmt: skip


def test_the_table_of_all_results_has_the_gpus_too(written: Path) -> None:
    with (written / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["device"], row["recipe"], row["batch"]): row for row in rows}
    assert found["cpu", "dynamic-int8", "8"]["speedup_x"] == "2.0"
    assert found["NVIDIA H200", "int8-compiled", "128"]["latency_ms_p50"] == "16.0"
    assert found["NVIDIA H200", "fp8-compiled", ""]["top1_pct"] == ""
    assert len(found) == len(rows) == 2 * 2 + 3 * 2 + 1


def test_the_linear_layers_speed_stands_beside_what_the_registers_reach(params: Params, inputs: Inputs) -> None:
    """2 · 10⁹ products in 102.5 ms and 41 ms are 19.5 and 48.8 · 10⁹ per second, of 100 and 400 · 10⁹."""
    study = build.read(params, inputs).findings.study
    batches = tables.latency(study).split("Batch ")
    columns = "10⁹ products/s", "% of register rate"
    first, second = table(batches[1]), table(batches[2])
    assert [first["fp32"][column] for column in columns] == ["20", "20"]
    assert [first["dynamic-int8"][column] for column in columns] == ["49", "12"]
    assert [second["dynamic-int8"][column] for column in columns] == ["39", "10"]
    assert prose.roofline(study) == (
        "The linear layers take 2.00 · 10⁹ products per image; in registers this machine's threads reach, in 10⁹ "
        "products per second, 100 in float32, 400 in int8."
    )
    assert prose.roofline(study) in text(params, inputs)


def test_without_the_registers_rate_the_report_says_why(params: Params, inputs: Inputs) -> None:
    benchmark = form.read(inputs.benchmark, Benchmark)
    benchmark.register_products_per_s, benchmark.unavailable_register_rate = {}, "no *compiler*"
    form.write(inputs.benchmark, benchmark)
    study = build.read(params, inputs).findings.study
    assert prose.roofline(study).endswith("reaches in registers is not known: no \\*compiler\\*.")
    assert "register rate" not in tables.latency(study)
    assert "10⁹ products/s" in tables.latency(study)
    assert prose.roofline(study.model_copy(update={"roofline": None})) == ""  # in findings of version 1


def test_a_recipe_in_an_arithmetic_whose_rate_was_not_measured_has_a_dash(params: Params, inputs: Inputs) -> None:
    benchmark = form.read(inputs.benchmark, Benchmark)
    del benchmark.register_products_per_s["int8"]
    form.write(inputs.benchmark, benchmark)
    first = table(tables.latency(build.read(params, inputs).findings.study).split("Batch ")[1])
    assert first["fp32"]["% of register rate"] == "20"
    assert first["dynamic-int8"]["% of register rate"] == "–"


def test_the_accuracy_table_says_how_far_embeddings_move(params: Params, inputs: Inputs) -> None:
    """They are the logits here: where INT8 is wrong and FP32 is right, (1, ½) to (0, 1½)."""
    rows = table(tables.accuracy(build.read(params, inputs).findings.study))
    least = 0.5 / np.hypot(1, 0.5)
    assert rows["fp32"]["embedding, mean cosine"] == rows["fp32"]["least cosine"] == "–"
    assert rows["dynamic-int8"]["least cosine"] == f"{least:.4f}"
    assert rows["dynamic-int8"]["embedding, mean cosine"] == f"{(22 + 2 * least) / 24:.4f}"


def test_a_study_of_embeddings(params: Params, inputs: Inputs) -> None:
    """Top-1 is the neighbours'; of 24 images 3 have another nearest neighbour with INT8."""
    embeddings = params.model_copy(update={"head": "features"})
    with pytest.raises(VitquantError, match="fp32.npz: nearest is missing, or holds no rows of the train split"):
        build.read(embeddings, inputs)
    for name, moved in (("fp32", 0), ("dynamic-int8", 3)):
        file = inputs.predictions / f"{name}.npz"
        predictions.write(file, predictions.read(file) | {"nearest": np.arange(24) + (np.arange(24) < moved)})
    content = build.read(embeddings, inputs)
    study = content.findings.study
    assert study.facts.embedding == "class"
    row = table(tables.summary(study))["dynamic-int8"]
    assert row["same nearest %"] == "87.50"
    assert float(row["cosine, 1st percentile"]) >= 0.5 / np.hypot(1, 0.5) - 1e-4
    assert row["k-NN top-1 %"] == f"{100 * 18 / 24:.2f}"
    assert flat.summary(study)["dynamic-int8"]["class_token_p1_cosine"] == float(row["cosine, 1st percentile"])
    report = build.markdown(embeddings, content, [])
    assert "It gives embeddings (the class token). Top-1, in all that follows, is that of the 5 nearest" in report
    assert "87.50 % of the images have the same nearest neighbour; `dynamic-int8` differs in k-NN top-1 by" in report
    assert "k-NN" not in text(params, inputs)
    judged = [each for each in claims.audit(content.findings) if "top-1" in each.claim.what]
    assert judged
    assert all(each.measured is None or each.measured.study != study for each in judged)


@pytest.mark.parametrize(("others", "steal", "busy"), [(1.5, 0.5, False), (1.6, 0.5, True), (0.0, 2.1, True)])
def test_a_busy_machine_is_told_above_its_bound(others: float, steal: float, busy: bool) -> None:
    """What others' processes and others' machines took counts together."""
    conditions = handmade.CONDITIONS.model_copy(update={"others_pct": others, "steal_pct": steal})
    line = prose.conditions([handmade.CONDITIONS, conditions])
    assert ("The machine was busy" in line) == busy
    assert "2 launches were timed for 20 minutes; in the busiest other processes had" in line
    assert f"{others} % of the cores' time and other virtual machines {steal} %" in line
    assert "(load average 0.1 before and 1.9 after, clock 2,500 to 2,600 MHz)." in line
    assert "MHz" not in prose.conditions([conditions.model_copy(update={"cpu_mhz": None})])
    assert prose.conditions([]) == ""


def test_a_trial_on_a_busy_machine_is_told() -> None:
    busy = handmade.CONDITIONS.model_copy(update={"others_pct": 12.0, "steal_pct": 0.5})
    said = "others had 12.5 % in the launch before them, too, which tried the ways to run a batch"
    assert said in prose.conditions([handmade.CONDITIONS], trial=busy)
    assert "before them" not in prose.conditions([handmade.CONDITIONS], trial=handmade.CONDITIONS)


def test_every_launch_that_was_thrown_away_is_told() -> None:
    busy = handmade.CONDITIONS.model_copy(update={"others_pct": 30.0, "steal_pct": 4.0})
    line = prose.conditions([handmade.CONDITIONS], [busy, busy])
    assert "2 launches were thrown away before anybody saw the times, since others had 34.0 % and 34.0 %." in line
    assert "The machine was busy" not in line


def test_the_report_says_how_busy_the_machine_was(written: Path) -> None:
    assert prose.conditions([handmade.CONDITIONS, handmade.CONDITIONS]) in (written / "report.md").read_text()


def test_the_report_says_where_accuracy_was_measured() -> None:
    study = handmade.study()
    assert prose.accuracy_device(study) == "the CPU"
    fp32 = study.baseline
    assert fp32.accuracy
    on_gpu = fp32.model_copy(update={"accuracy": fp32.accuracy.model_copy(update={"device": "cuda"})})
    environment = study.environment.model_copy(update={"gpu": "T4"})
    recipes = {"fp32": on_gpu, "dynamic-int8": study.recipes["dynamic-int8"]}
    study = study.model_copy(update={"recipes": recipes, "environment": environment})
    assert prose.accuracy_device(study) == "the GPU, T4 (`fp32`); the CPU (`dynamic-int8`)"


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
    study = build.read(params, inputs).findings.study
    assert flat.metrics(study)["recipes"]["dynamic-int8"] == {
        "traits": INT8.model_dump(mode="json"),
        "unavailable": {"accuracy": "no VNNI", "benchmark": "no VNNI"},
    }
    assert "- benchmark of `dynamic-int8`: no VNNI" in tables.unavailable(study)
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
    inputs.profile.unlink()
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
    assert len(set(names)) == 12


def test_a_study_without_accuracy_reports_speed_and_why(params: Params, inputs: Inputs) -> None:
    for name in NAMES:
        not_evaluated(inputs, name, "untrained head")
    shown = text(params, inputs)
    assert "accuracy of `fp32`, `dynamic-int8`: untrained head" in shown
    assert "**Use** no recipe on the strength of this study: accuracy was not measured" in shown
    assert "of `dynamic-int8` against `fp32`, the fastest other recipe, 2.50 [2.50, 2.50] ×" in shown
    footprint = build.read(params, inputs).findings.study.baseline.footprint
    assert footprint
    assert footprint.size_mb == 80.0


def test_the_tails_of_the_recommended_recipe(params: Params, inputs: Inputs) -> None:
    """Those of 1 to 1,001 ms; or why there are none; or nothing, where there is no file."""
    assert (
        "Tails of `fp32` over 1,001 passes in a row at batch 1, with no other recipe loaded: "
        "p50 501.0 ms, p90 901.0, p99 991.0, p99.9 1000.0, the greatest 1001.0; the median was "
    ) in text(params, inputs)
    form.write(inputs.tails, Tails(unavailable="nothing *is* recommended"))
    assert "\n\nTails were not measured: nothing \\*is\\* recommended.\n\n" in text(params, inputs)
    inputs.tails.unlink()
    assert "Tails" not in text(params, inputs)


def test_a_single_recipe(params: Params, inputs: Inputs) -> None:
    alone = params.model_copy(update={"recipes": {"fp32": params.recipes["fp32"]}})
    shown = text(alone, inputs)
    assert "- The study has no quantized recipe" in shown
    assert "dynamic-int8, batch" not in shown
    assert build.read(alone, inputs).details == Details()


def test_a_quantized_recipe_of_any_name_is_looked_into(params: Params, prepared: Prepared, tmp_path: Path) -> None:
    """Its traits say what it is."""
    recipes = {"fp32": params.recipes["fp32"], "mine": params.recipes["dynamic-int8"]}
    study = params.model_copy(update={"recipes": recipes})
    content = build.read(study, handmade.stages(prepared, tmp_path, int8="mine"))
    assert content.findings.study.recipes["mine"].traits == INT8
    assert (list(content.details.per_class), list(content.details.disagreement)) == (["mine"], ["mine"])
    assert "of `mine` against `fp32`, the fastest other recipe, 2.50 [2.50, 2.50] ×" in build.markdown(
        study, content, []
    )


def test_two_classes_have_no_top5(params: Params, inputs: Inputs, prepared: Prepared, tmp_path: Path) -> None:
    """The same images as two classes."""
    data = tmp_path / "two"
    shutil.copytree(prepared.path, data)
    labels = prepared.labels("val") % 2
    np.save(data / "val_labels.npy", labels)
    files.write_json(data / "classes.json", ["even", "odd"])
    for name, traits, right in (("fp32", FP32, 20), ("dynamic-int8", INT8, 18)):
        logits = np.eye(2, dtype=np.float32)[np.where(np.arange(24) < right, labels, 1 - labels)]
        handmade.write_accuracy(inputs, name, traits, logits)
    shown = text(params, dataclasses.replace(inputs, data=data, cuda=tmp_path / "none"))
    assert "- top5 of `fp32`, `dynamic-int8`: top-5 of 2 classes is always 100 %" in shown
    assert "| top-5 % |" not in shown
    row = next(line for line in shown.splitlines() if line.startswith("| top-5, difference"))
    assert "**not measured here**" in row
    assert "always 100 %" in row


def test_nothing_is_written_of_results_that_are_refused(params: Params, inputs: Inputs, tmp_path: Path) -> None:
    """Those of two machines, and of a GPU by an earlier version."""
    profile = form.read(inputs.profile, Profile)
    profile.environment = profile.environment.model_copy(update={"host": "cellar"})
    form.write(inputs.profile, profile)
    with pytest.raises(VitquantError) as error:
        build.report(params, inputs, tmp_path / "out")
    message = f"{inputs.benchmark} and {inputs.profile} were measured on different machines (host: attic, cellar)"
    assert str(error.value) == f"{message}: {load.MEND}"
    inputs.profile.unlink()
    files.write_json(inputs.cuda / "old.json", {"device": "NVIDIA T4", "quantize_dynamic": "", "studies": {}})
    with pytest.raises(VitquantError, match=r"old.json has version 1 of the format, this is vitquant with version 3"):
        build.report(params, inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_would_break_markdown_or_html_are_shown_as_they_are(
    params: Params, inputs: Inputs, prepared: Prepared, tmp_path: Path
) -> None:
    name = "<script>alert(1)</script> | `x` *y* $z$ [a](b) & c"
    inputs.profile.unlink()
    inputs.tails.unlink()
    handmade.move(inputs, cpu=name)
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
    found = form.read(written / "details.json", Details)
    classes = found.per_class["dynamic-int8"]
    assert sum(row.images for row in classes) == 24
    assert classes[0].top1_delta.value < 0
    moved = found.disagreement["dynamic-int8"]
    assert [row.row for row in moved[:2]] == [18, 19]
    assert moved[0].fp32 == moved[0].true_class != moved[0].recipe
    assert len(moved) == 12


def test_the_plots_of_dvc_have_the_intervals(written: Path) -> None:
    speedup = files.read_json(written / "plots/speedup.json")
    assert speedup == [{"recipe": "dynamic-int8", "value": 2.5, "low": 2.5, "high": 2.5}]
    accuracy_difference = files.read_json(written / "plots/accuracy.json")
    assert [row["value"] for row in accuracy_difference] == [-8.33]


@pytest.mark.parametrize(("peak", "latency"), [(0, 100.0), (60_000_000, 1e-307)])
def test_a_number_that_cannot_be_ends_in_one_line_and_writes_nothing(
    params: Params, prepared: Prepared, tmp_path: Path, peak: int, latency: float
) -> None:
    inputs, out = handmade.stages(prepared, tmp_path), tmp_path / "out"
    benchmark = handmade.benchmark()
    measured = benchmark.recipes["dynamic-int8"].measured
    assert measured
    for memory in measured.memory_bytes:
        memory.load_peak = peak
    measured.latency_ms[1] = [[latency, latency], [latency, latency]]
    form.write(inputs.benchmark, benchmark)
    with pytest.raises(VitquantError, match="^the results hold a number that cannot be "):
        build.report(params, inputs, out)
    assert not out.exists()
