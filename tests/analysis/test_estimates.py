"""Estimates of samples made by hand, whose statistics are known: the same function for the CPU's and for GPUs'."""

from pathlib import Path

import handmade
import numpy as np
import pytest
from handmade import BF16_COMPILED, DIGEST, INT8, INT8_COMPILED

from vitquant.analysis import estimates
from vitquant.analysis.analyse import analyse
from vitquant.analysis.estimates import Evidence
from vitquant.analysis.findings import Estimate, Recipe, Rival, Roofline, Tails
from vitquant.analysis.load import Inputs, load
from vitquant.data.prepared import Prepared
from vitquant.params import Params
from vitquant.results import form
from vitquant.results.benchmark import Benchmark, Measured, Memory
from vitquant.results.gpu import Gpu
from vitquant.traits import FP32, Traits

ROOFLINE = Roofline(products_per_image=2_000_000_000, register_products_per_s={"float32": 100e9, "int8": 400e9})
FP16_COMPILED = BF16_COMPILED.model_copy(update={"arithmetic": "float16"})
LABELS = np.arange(12) % 6
PACE = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])  # of a machine whose time triples half-way


def measured(latency_ms: dict[int, list[float]], size_bytes: int = 80_000_000, **on_a_gpu: object) -> Measured:
    """In one launch."""
    return Measured(
        artifact_sha256=DIGEST,
        size_bytes=size_bytes,
        memory_bytes=[Memory(model=50_040_000, load_peak=60_060_000)],
        latency_ms={size: [rounds] for size, rounds in latency_ms.items()},
        **on_a_gpu,  # type: ignore[arg-type]
    )


def timed(traits: Traits, milliseconds: float) -> Evidence:
    """At batch 8, in a phase that hits every recipe alike."""
    return Evidence(traits, measured({8: list(milliseconds * PACE)}))


def found(evidence: dict[str, Evidence], roofline: Roofline = ROOFLINE) -> dict[str, Recipe]:
    return estimates.recipes(evidence, LABELS, roofline)


def right(count: int) -> np.ndarray:
    """Logits that are right on the first `count` of LABELS."""
    predicted = np.where(np.arange(12) < count, LABELS, (LABELS + 1) % 6)
    return np.eye(6, dtype=np.float32)[predicted]


@pytest.mark.parametrize(
    ("passes", "percentiles"),
    [(1001, (501, 901, 991, 1000, 1001)), (101, (51, 91, 100, 100.9, 101)), (100, (50.5, 90.1, 99.01, 99.9, 100))],
)
def test_tails(passes: int, percentiles: tuple[float, ...]) -> None:
    """Of 1, 2, 3 … milliseconds in some order: of k passes a percentile p is 1 + p (k - 1) / 100."""
    timed = handmade.tails().timed
    assert timed
    order = np.random.default_rng(0).permutation(passes) + 1.0
    p50, p90, p99, p999, greatest = percentiles
    assert estimates.tails(timed.model_copy(update={"latency_ms": list(order)})) == Tails(
        recipe="fp32", passes=passes, p50_ms=p50, p90_ms=p90, p99_ms=p99, p999_ms=p999, max_ms=greatest,
        first_p50_ms=round(float(np.median(order[: passes // 5])), 2),
        last_p50_ms=round(float(np.median(order[-(passes // 5) :])), 2), conditions=handmade.CONDITIONS,
    )  # fmt: skip


def test_times_of_a_batch() -> None:
    speed = found({"fp32": Evidence(FP32, measured({8: [100.0, 110.0, 90.0, 105.0]}))})["fp32"].at(8)
    assert (speed.p50_ms, speed.p90_ms, speed.p99_ms, speed.spread_pct) == (102.5, 108.5, 109.85, 7.23)
    assert speed.images_per_s == 78.05  # 8 in 102.5 ms
    assert speed.mean
    assert (speed.mean.value, speed.mean.unit) == (101.25, "ms")
    assert 85 <= speed.mean.low < 101.25 < speed.mean.high <= 120
    assert (speed.speedup, speed.best_float, speed.energy_mj) == (None, None, None)


def test_a_speed_up_is_paired_by_round() -> None:
    """Each time varies threefold; no ratio within a round varies."""
    recipes = found({"fp32": timed(FP32, 50), "int8": timed(INT8, 20), "bf16": timed(BF16_COMPILED, 25)})
    assert recipes["int8"].at(8).spread_pct > 50
    speedup, best_float = recipes["int8"].at(8).speedup, recipes["int8"].at(8).best_float
    assert speedup
    assert best_float
    assert (speedup.value, speedup.low, speedup.high, speedup.unit) == (2.5, 2.5, 2.5, "×")
    assert best_float == Rival(recipe="bf16", ratio=Estimate(value=1.25, low=1.25, high=1.25, unit="×"))


def test_a_recipe_that_was_timed_in_fewer_rounds_is_paired_with_the_same_ones() -> None:
    slow = Evidence(BF16_COMPILED, measured({8: [100.0, 100.0, 100.0]}))
    recipes = found({"fp32": timed(FP32, 50), "slow": slow, "int8": timed(INT8, 20)})
    speedup, rival = recipes["slow"].speedup(8), recipes["slow"].at(8).fastest_other
    assert speedup
    assert rival
    assert speedup.interval == (0.5, 0.5)
    assert (rival.recipe, rival.ratio.interval) == ("int8", (0.2, 0.2))


def test_there_is_no_ratio_where_the_other_was_not_timed() -> None:
    evidence = {
        "fp32": Evidence(FP32, measured({1: [1.0, 1.0]})),
        "int8": Evidence(INT8, measured({1: [1.0, 1.0], 8: [4.0, 4.0]})),
        "bf16": Evidence(BF16_COMPILED, measured({8: [2.0, 2.0]})),
    }
    int8 = found(evidence)["int8"]
    assert int8.speedup(8) is None
    assert int8.speedup(1)
    rivals = {size: int8.at(size).best_float for size in (1, 8)}
    assert {size: rival and rival.recipe for size, rival in rivals.items()} == {1: "fp32", 8: "bf16"}


def test_the_rivals_of_each_recipe() -> None:
    """The fastest other one, and the fastest other that does not quantize, eager or compiled, by their traits."""
    evidence = {
        "fp32": timed(FP32, 50),
        "int8-w8a8": timed(BF16_COMPILED.model_copy(update={"execution": "eager"}), 20),
        "half": timed(FP16_COMPILED, 25),
        "first": timed(INT8_COMPILED, 10),
        "second": timed(BF16_COMPILED.model_copy(update={"weight_bits": 8}), 12),
        "absent": Evidence(BF16_COMPILED, unavailable={"benchmark": "no compiler"}),
    }
    speeds = {name: recipe.at(8) for name, recipe in found(evidence).items() if recipe.speeds}
    others = {name: speed.fastest_other and speed.fastest_other.recipe for name, speed in speeds.items()}
    floats = {name: speed.best_float and speed.best_float.recipe for name, speed in speeds.items()}
    assert others == dict.fromkeys(speeds, "first") | {"first": "second"}
    assert floats == dict.fromkeys(speeds, "int8-w8a8") | {"int8-w8a8": "half"}
    first = speeds["first"].fastest_other
    assert first
    assert first.ratio.value == 1.2


def test_products_per_second_and_what_of_the_registers_pace_that_is() -> None:
    evidence = {
        "fp32": Evidence(FP32, measured({8: [200.0, 200.0]})),
        "int8": Evidence(INT8, measured({8: [80.0, 80.0]})),
        "bf16": Evidence(BF16_COMPILED, measured({8: [100.0, 100.0]})),
    }
    speeds = {name: recipe.at(8) for name, recipe in found(evidence).items()}
    assert (speeds["fp32"].gproducts_per_s, speeds["fp32"].register_pct) == (80.0, 80.0)
    assert (speeds["int8"].gproducts_per_s, speeds["int8"].register_pct) == (200.0, 50.0)
    assert (speeds["bf16"].gproducts_per_s, speeds["bf16"].register_pct) == (160.0, None)


def test_accuracy_is_compared_image_by_image() -> None:
    """INT8 loses three of ten images and gains one of the other two."""
    ours = right(7)
    ours[11] = np.eye(6)[LABELS[11]]
    cosine = np.array([1.0] * 11 + [0.5], np.float32)
    recipes = found({"fp32": Evidence(FP32, logits=right(10)), "int8": Evidence(INT8, logits=ours, cosine=cosine)})
    fp32, int8 = recipes["fp32"].accuracy, recipes["int8"].accuracy
    assert fp32
    assert int8
    assert (fp32.top1.value, fp32.top1_delta, fp32.mcnemar_p, fp32.agreement_pct) == (83.33, None, None, None)
    assert int8.top1_delta
    assert (int8.top1.value, int8.top1_delta.value, int8.top1_delta.unit) == (66.67, -16.67, "pp")
    assert int8.top1_delta.low < -16.67 < int8.top1_delta.high
    assert int8.mcnemar_p == 0.625  # four discordant images, one of them gained: 2 (1 + 4) / 16
    assert int8.agreement_pct == 66.67
    assert (int8.class_token_mean_cosine, int8.class_token_least_cosine) == (0.95833, 0.5)
    assert (fp32.class_token_mean_cosine, recipes["int8"].speeds, recipes["int8"].footprint) == (None, {}, None)


def test_accuracy_in_large_batches_is_compared_with_fp32s_own() -> None:
    """In them INT8 loses three of ten images, where each is alone none."""
    int8 = Evidence(INT8, logits=right(10), large_batch=32, logits_large_batch=right(7))
    recipes = found({"fp32": Evidence(FP32, logits=right(10)), "int8": int8})
    accuracy, fp32 = recipes["int8"].accuracy, recipes["fp32"].accuracy
    assert accuracy
    assert fp32
    assert accuracy.top1_delta
    assert accuracy.top1_large_batch
    assert accuracy.top1_delta_large_batch
    assert (accuracy.top1.value, accuracy.top1_delta.value, accuracy.agreement_pct) == (83.33, 0.0, 100.0)
    assert (accuracy.large_batch, accuracy.top1_large_batch.value) == (32, 58.33)
    assert (accuracy.top1_delta_large_batch.value, accuracy.agreement_large_batch_pct) == (-25.0, 75.0)
    assert accuracy.top1_delta_large_batch.low < -25 < accuracy.top1_delta_large_batch.high
    assert (fp32.large_batch, fp32.top1_large_batch, fp32.top1_delta_large_batch) == (None, None, None)
    alone = found({"fp32": Evidence(FP32), "int8": int8})["int8"].accuracy
    assert alone
    assert (alone.large_batch, alone.top1_large_batch) == (32, accuracy.top1_large_batch)
    assert (alone.top1_delta_large_batch, alone.agreement_large_batch_pct) == (None, None)


def test_accuracy_in_large_batches_of_a_part_is_compared_over_that() -> None:
    part = np.arange(0, 12, 3)  # of which FP32 has 0, 3, 6 and 9 right
    large = right(7)[part]
    int8 = Evidence(INT8, logits=right(10), large_batch=32, logits_large_batch=large, part=part)
    accuracy = found({"fp32": Evidence(FP32, logits=right(10)), "int8": int8})["int8"].accuracy
    assert accuracy
    assert accuracy.top1_large_batch
    assert accuracy.top1_delta_large_batch
    assert (accuracy.top1_large_batch.value, accuracy.top1_delta_large_batch.value) == (75.0, -25.0)
    assert (accuracy.top1.value, accuracy.own_images) == (83.33, None)


@pytest.mark.parametrize(("moved", "undecided"), [(0.0, 2), (0.02, 3)])
def test_of_a_recipe_that_predicted_a_part_what_may_differ_is_counted(moved: float, undecided: int) -> None:
    """By the bound, or what is found on the part where that is more: two classes lie less than twice that apart."""
    part, logits = np.arange(0, 12, 3), 10 * right(10) + np.arange(6, dtype=np.float32)
    logits[[1, 3, 4]] = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0019]  # 3 is of the part
    logits[5] = [1.0, 2.0, 3.0, 4.0, 5.0, 5.03]
    ours = logits.copy()
    ours[part] += np.float32(moved)
    fp32, own = Evidence(FP32, logits=logits), Evidence(FP32, logits=ours, part=part, as_fp32=True)
    accuracy = found({"fp32": fp32, "openvino-fp32": own})["openvino-fp32"].accuracy
    assert accuracy
    assert (accuracy.own_images, accuracy.undecided_images) == (4, undecided)


def test_five_classes_have_no_top5_and_without_fp32s_logits_there_is_no_difference() -> None:
    logits = right(10)[:, :5]
    alone = estimates.recipes(
        {"fp32": Evidence(FP32), "int8": Evidence(INT8, device="cuda", logits=logits)}, LABELS % 5, ROOFLINE
    )
    assert alone["fp32"].accuracy is None
    accuracy = alone["int8"].accuracy
    assert accuracy
    assert (accuracy.device, accuracy.top5, accuracy.top1_delta, accuracy.top5_delta) == ("cuda", None, None, None)


def test_memory_and_size() -> None:
    int8 = measured({1: [1.0, 1.0]}, size_bytes=20_000_000, process_memory_bytes=1_234_560_000, energy_mj={1: 0.12345})
    recipes = found({"fp32": Evidence(FP32, measured({1: [1.0, 1.0]})), "int8": Evidence(INT8, int8, "cuda")})
    own, fp32 = recipes["int8"].footprint, recipes["fp32"].footprint
    assert own
    assert fp32
    assert (own.memory_model_mb, own.memory_peak_mb, own.memory_process_mb) == (50.0, 60.1, 1234.6)
    assert (own.size_mb, own.size_reduction_pct) == (20.0, 75.0)
    assert (fp32.memory_process_mb, fp32.size_reduction_pct) == (None, None)
    assert recipes["int8"].at(1).energy_mj == 0.123


@pytest.fixture
def inputs(prepared: Prepared, tmp_path: Path) -> Inputs:
    return handmade.stages(prepared, tmp_path)


def test_the_study_of_the_stages(params: Params, inputs: Inputs) -> None:
    study = analyse(load(params, inputs)).study
    assert study.sizes == [1, 8]
    fp32, int8 = study.recipes["fp32"], study.recipes["dynamic-int8"]
    assert int8.top1_delta
    assert int8.top1_delta.value == -8.33
    assert int8.accuracy
    assert (int8.accuracy.mcnemar_p, int8.accuracy.agreement_pct) == (0.5, 91.67)
    assert int8.speedup(8) == handmade.ratio(2.0).model_copy(update={"low": 2.0, "high": 2.0})
    assert (fp32.at(1).p50_ms, fp32.at(1).register_pct) == (102.5, 19.5)
    assert int8.unavailable == {}


def test_the_same_samples_give_the_same_estimates_on_a_gpu(params: Params, inputs: Inputs) -> None:
    benchmark = form.read(inputs.benchmark, Benchmark)
    on_gpu = handmade.gpu_study().model_copy(update={"recipes": benchmark.recipes, "conditions": benchmark.conditions})
    handmade.write_gpu(inputs.cuda, on_gpu)
    found = analyse(load(params, inputs))
    [device] = found.gpus
    [study] = device.studies.values()
    assert (device.device, study.date) == ("NVIDIA H200", "2026-11-24")
    for name, theirs in study.recipes.items():
        ours = found.study.recipes[name]
        for size in (1, 8):
            limited = ours.at(size).model_copy(update={"register_pct": None})  # known of the CPU only
            assert theirs.at(size) == limited
        assert theirs.footprint == ours.footprint
        assert theirs.accuracy
        assert theirs.accuracy.device == "cuda"
    assert study.roofline
    assert study.roofline.unavailable == "it is measured on the CPU only"


def test_a_gpus_race_and_reasons(params: Params, inputs: Inputs) -> None:
    study = handmade.gpu_study()
    own = study.recipes["int8-compiled"].measured
    assert own
    own.process_memory_bytes, own.unavailable_batches = None, {512: "out of memory"}
    handmade.write_gpu(inputs.cuda, study)
    [device] = analyse(load(params, inputs)).gpus
    recipes = device.studies["tiny-imagenet"].recipes
    assert recipes["fp8-compiled"].unavailable == {"benchmark": "needs | compute capability 8.9"}
    assert recipes["int8-compiled"].unavailable == {
        "batch 512": "out of memory",
        "memory_process": "NVML shows no memory by process here",
    }
    assert recipes["fp32"].unavailable == {}
    accuracy = recipes["int8-compiled"].accuracy
    assert accuracy
    assert (accuracy.top1.value, accuracy.class_token_least_cosine) == (83.9, 0.999)
    assert accuracy.top1_delta
    assert accuracy.top1_delta.value == -0.1  # of 2000 images four are lost, two gained


def test_a_gpus_recipe_without_accuracy_says_why(params: Params, inputs: Inputs) -> None:
    file = handmade.write_gpu(inputs.cuda, handmade.gpu_study())
    gpu = form.read(file, Gpu)
    own = gpu.studies["tiny-imagenet"].recipes["int8-compiled"].measured
    assert own
    own.logits_sha256, own.unavailable_accuracy = None, "NaN or infinite logits"
    form.write(file, gpu)
    recipes = analyse(load(params, inputs)).gpus[0].studies["tiny-imagenet"].recipes
    recipe = recipes["int8-compiled"]
    assert (recipe.accuracy, recipe.unavailable) == (None, {"accuracy": "NaN or infinite logits"})
    assert recipes["bf16-compiled"].accuracy


def test_what_the_stages_could_not_measure_is_absent_and_has_its_reason(params: Params, inputs: Inputs) -> None:
    changed = handmade.benchmark()
    fp32, int8 = changed.recipes["fp32"].measured, changed.recipes["dynamic-int8"]
    assert fp32
    fp32.slow, fp32.memory_bytes, fp32.from_file_ms = "too slow here", fp32.memory_bytes[:1], fp32.from_file_ms[:1]
    fp32.latency_ms = {1: fp32.latency_ms[1][:1]}
    int8.measured, int8.unavailable = None, "no VNNI"
    form.write(inputs.benchmark, changed)
    recipes = analyse(load(params, inputs)).study.recipes
    assert recipes["fp32"].unavailable == {"all but the first batches": "too slow here"}
    assert recipes["dynamic-int8"].unavailable == {"benchmark": "no VNNI"}
    assert (recipes["dynamic-int8"].speeds, recipes["dynamic-int8"].footprint) == ({}, None)
    del changed.recipes["dynamic-int8"]
    form.write(inputs.benchmark, changed)
    recipes = analyse(load(params, inputs)).study.recipes
    assert recipes["dynamic-int8"].unavailable == {"benchmark": "not in the benchmark"}
