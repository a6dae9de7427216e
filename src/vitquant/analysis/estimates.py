"""From samples to estimates: the one place where the statistics of a study are made, of the CPU's and of GPUs'."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitquant.analysis import statistics
from vitquant.analysis.findings import Accuracy, Estimate, Footprint, Range, Recipe, Rival, Roofline, Speed, Tails
from vitquant.params import BASELINE
from vitquant.results.accuracy import ROUNDING
from vitquant.results.benchmark import Measured
from vitquant.results.hits import discordant, hits
from vitquant.results.tails import Timed
from vitquant.traits import Traits

MB = 1e6
Logits = NDArray[np.float32]
Launches = list[NDArray[np.float64]]


@dataclass(frozen=True)
class Evidence:
    """What there is of one recipe."""

    traits: Traits
    measured: Measured | None = None
    """None where it could not be loaded."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the logits were made."""
    logits: Logits | None = None
    """Of the validation images, (N, C)."""
    large_batch: int | None = None
    """The size of large batches, where the images of a batch affect each other."""
    logits_large_batch: Logits | None = None
    """Of a part of the images in such batches, (M, C)."""
    part: NDArray[np.int64] | None = None
    """The rows of that part, (M,); if not said, all."""
    as_fp32: bool = False
    """Whether it predicted that part alone, and FP32's logits stand for those of the others."""
    cosine: NDArray[np.float32] | None = None
    """Of their embeddings to FP32's, (N,)."""
    nearest: NDArray[np.int64] | None = None
    """Their nearest neighbours in the train split, (N,), where embeddings are studied."""
    unavailable: dict[str, str] = field(default_factory=dict)


def recipes(evidence: Mapping[str, Evidence], labels: NDArray[np.int64], roofline: Roofline) -> dict[str, Recipe]:
    """Every recipe's estimates.

    Args:
        labels: of the validation images, (N,).
    """
    found = {name: _recipe(name, evidence, labels, roofline) for name in evidence}
    compared = {
        name: recipe.accuracy
        for name, recipe in found.items()
        if recipe.accuracy and recipe.accuracy.gained is not None
    }
    corrected = statistics.holm(
        [statistics.mcnemar_p(accuracy.gained or 0, accuracy.lost or 0) for accuracy in compared.values()]
    )
    for (name, accuracy), p in zip(compared.items(), corrected, strict=True):
        changed = accuracy.model_copy(update={"holm_p": round(p, 4)})
        found[name] = found[name].model_copy(update={"accuracy": changed})
    return found


def _recipe(name: str, evidence: Mapping[str, Evidence], labels: NDArray[np.int64], roofline: Roofline) -> Recipe:
    recipe, baseline = evidence[name], evidence[BASELINE]
    accuracy = None
    if recipe.logits is not None:
        accuracy = _accuracy(recipe, None if name == BASELINE else baseline, labels)
    speeds, footprint = {}, None
    if recipe.measured:
        speeds = {size: _speed(name, size, evidence, roofline) for size in recipe.measured.latency_ms}
        footprint = _footprint(recipe.measured, None if name == BASELINE else baseline.measured)
    return Recipe(
        traits=recipe.traits, accuracy=accuracy, speeds=speeds, footprint=footprint, unavailable=recipe.unavailable
    )


def _accuracy(recipe: Evidence, fp32: Evidence | None, labels: NDArray[np.int64]) -> Accuracy:
    logits, baseline = recipe.logits, fp32.logits if fp32 else None
    assert logits is not None
    tops = {k: statistics.proportion(hits(logits, labels, k)).rounded(2) for k in (1, 5) if k < logits.shape[1]}
    large, part = recipe.logits_large_batch, slice(None) if recipe.part is None else recipe.part
    alone = Accuracy(
        device=recipe.device,
        top1=tops[1],
        top5=tops.get(5),
        large_batch=recipe.large_batch,
        top1_large_batch=None if large is None else statistics.proportion(hits(large, labels[part], 1)).rounded(2),
    )
    if baseline is None or fp32 is None:
        return alone
    deltas: dict[int, Estimate] = {}
    for k in tops:
        ours, theirs = hits(logits, labels, k), hits(baseline, labels, k)
        deltas[k] = statistics.paired_difference(ours, theirs).rounded(2)
    gained, lost = discordant(hits(logits, labels, 1), hits(baseline, labels, 1))
    return alone.model_copy(
        update={
            "top1_delta": deltas[1],
            "top5_delta": deltas.get(5),
            "gained": gained,
            "lost": lost,
            "mcnemar_p": round(statistics.mcnemar_p(gained, lost), 4),
            "agreement_pct": _agreement(logits, baseline),
        }
        | _moved(recipe, fp32)
        | ({} if large is None else _large_batch(large, baseline[part], labels[part]))
        | (_as_fp32(logits, baseline, recipe.part) if recipe.as_fp32 and recipe.part is not None else {})
    )


def _moved(recipe: Evidence, fp32: Evidence) -> dict[str, float]:
    """How far the embeddings are from FP32's, and how many have the same nearest neighbour, in percent."""
    found: dict[str, float] = {}
    if recipe.cosine is not None:
        found["class_token_mean_cosine"] = round(float(recipe.cosine.mean()), 5)
        found["class_token_p1_cosine"] = round(float(np.percentile(recipe.cosine, 1)), 5)
        found["class_token_least_cosine"] = round(float(recipe.cosine.min()), 5)
    if recipe.nearest is not None and fp32.nearest is not None:
        found["nearest_agreement_pct"] = round(100 * float(np.mean(recipe.nearest == fp32.nearest)), 2)
    return found


def _large_batch(logits: Logits, baseline: Logits, labels: NDArray[np.int64]) -> dict[str, Estimate | float]:
    """How logits in large batches differ from FP32's, which no other image affects."""
    delta = statistics.paired_difference(hits(logits, labels, 1), hits(baseline, labels, 1)).rounded(2)
    return {"top1_delta_large_batch": delta, "agreement_large_batch_pct": _agreement(logits, baseline)}


def _as_fp32(logits: Logits, baseline: Logits, part: NDArray[np.int64]) -> dict[str, int]:
    """How many images a recipe predicted itself, and of how many others its top-1 or top-5 may not be FP32's.

    A logit differs from FP32's by ROUNDING at most, or by as much as one of the part does. So classes can change places
    only where FP32's logits are no more than twice that apart.
    """
    bound = max(ROUNDING, float(np.abs(logits - baseline)[part].max()))
    others = np.sort(np.delete(baseline, part, axis=0))
    near = [others[:, -k] - others[:, -k - 1] <= 2 * bound for k in (1, 5) if k < others.shape[1]]
    return {"own_images": len(part), "undecided_images": int(np.any(near, axis=0).sum())}


def _agreement(logits: Logits, baseline: Logits) -> float:
    """The share of images with the same top-1 class, in percent."""
    return round(100 * float(np.mean(logits.argmax(axis=1) == baseline.argmax(axis=1))), 2)


def _speed(name: str, size: int, evidence: Mapping[str, Evidence], roofline: Roofline) -> Speed:
    recipe = evidence[name]
    assert recipe.measured is not None
    measured = recipe.measured
    launches = _launches(measured, size)
    spread = statistics.distribution(launches)
    others = {
        other: _launches(each.measured, size)
        for other, each in evidence.items()
        if other != name and each.measured and size in each.measured.latency_ms
    }
    ratios = {other: statistics.paired_ratio(times, launches) for other, times in others.items()}

    def rival(names: Iterable[str]) -> Rival | None:
        fastest = min(names, key=lambda other: ratios[other].value, default=None)
        return Rival(recipe=fastest, ratio=ratios[fastest].rounded(3)) if fastest else None

    energy = measured.energy_mj.get(size)
    products_per_s = 1000 * roofline.products_per_image * size / spread["p50"]
    limit = roofline.register_products_per_s.get(recipe.traits.arithmetic)
    peak, peak_range = _over_launches([memory.peak[size] for memory in measured.memory_bytes if size in memory.peak])
    return Speed(
        p50_ms=round(spread["p50"], 2),
        p90_ms=round(spread["p90"], 2),
        p99_ms=round(spread["p99"], 2),
        mean=statistics.mean_ms(launches).rounded(2),
        spread_pct=round(spread["spread_pct"], 2),
        images_per_s=round(1000 * size / spread["p50"], 2),
        speedup=ratios[BASELINE].rounded(3) if BASELINE in ratios else None,
        fastest_other=rival(ratios),
        best_float=rival(other for other in ratios if not evidence[other].traits.quantized),
        energy_mj=None if energy is None else round(energy, 3),
        gproducts_per_s=round(products_per_s / 1e9, 1),
        register_pct=round(100 * products_per_s / limit, 1) if limit else None,
        from_file_ms=_from_file(measured) if size == 1 else None,
        way=("split" if measured.is_split(size) else "whole") if size in measured.trials else None,
        memory_peak_mb=peak,
        memory_peak_range_mb=peak_range,
    )


def _launches(measured: Measured, size: int) -> Launches:
    """A recipe's times at a batch size, milliseconds, of each launch (rounds,)."""
    return [np.array(rounds) for rounds in measured.latency_ms[size]]


def _from_file(measured: Measured) -> float | None:
    passes = [ms for rounds in measured.from_file_ms for ms in rounds]
    return round(float(np.median(passes)), 2) if passes else None


def _over_launches(values: Sequence[int]) -> tuple[float | None, Range | None]:
    """The median of bytes, in MB, and their range where there are several."""
    if not values:
        return None, None
    least, median, greatest = (round(float(np.percentile(values, part)) / MB, 1) for part in (0, 50, 100))
    return median, (least, greatest) if len(values) > 1 else None


def tails(timed: Timed) -> Tails:
    """Percentiles of all passes, between two of them by linear interpolation, and the greatest."""
    parts = np.percentile(timed.latency_ms, [50, 90, 99, 99.9, 100])
    p50, p90, p99, p999, greatest = (round(float(part), 2) for part in parts)
    fifth = len(timed.latency_ms) // 5
    return Tails(
        recipe=timed.recipe,
        passes=len(timed.latency_ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=greatest,
        first_p50_ms=round(float(np.median(timed.latency_ms[:fifth])), 2),
        last_p50_ms=round(float(np.median(timed.latency_ms[-fifth:])), 2),
        conditions=timed.conditions,
    )


def _footprint(measured: Measured, baseline: Measured | None) -> Footprint:
    process = measured.process_memory_bytes
    reduction = round(100 * (1 - measured.size_bytes / baseline.size_bytes), 2) if baseline else None
    model, model_range = _over_launches([memory.model for memory in measured.memory_bytes])
    peak, peak_range = _over_launches([memory.load_peak for memory in measured.memory_bytes])
    assert model is not None
    assert peak is not None
    return Footprint(
        memory_model_mb=model,
        memory_model_range_mb=model_range,
        memory_peak_mb=peak,
        memory_peak_range_mb=peak_range,
        memory_process_mb=None if process is None else round(process / MB, 1),
        size_mb=round(measured.size_bytes / MB, 2),
        size_reduction_pct=reduction,
    )
