"""From samples to estimates: the one place where the statistics of a study are made, of the CPU's and of GPUs'."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitquant.analysis import statistics
from vitquant.analysis.findings import Accuracy, Estimate, Footprint, Recipe, Rival, Roofline, Speed
from vitquant.params import BASELINE, Report
from vitquant.results.benchmark import Measured
from vitquant.results.hits import discordant, hits
from vitquant.traits import Traits

MB = 1e6
Logits = NDArray[np.float32]
Times = NDArray[np.float64]


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
    cosine: NDArray[np.float32] | None = None
    """Of their class tokens to FP32's, (N,)."""
    unavailable: dict[str, str] = field(default_factory=dict)


def recipes(
    evidence: Mapping[str, Evidence], labels: NDArray[np.int64], roofline: Roofline, params: Report
) -> dict[str, Recipe]:
    """Every recipe's estimates.

    Args:
        labels: of the validation images, (N,).
    """
    found = {name: _recipe(name, evidence, labels, roofline, params) for name in evidence}
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


def _recipe(
    name: str, evidence: Mapping[str, Evidence], labels: NDArray[np.int64], roofline: Roofline, params: Report
) -> Recipe:
    recipe, baseline = evidence[name], evidence[BASELINE]
    accuracy = None
    if recipe.logits is not None:
        accuracy = _accuracy(recipe, None if name == BASELINE else baseline.logits, labels)
    speeds, footprint = {}, None
    if recipe.measured:
        speeds = {size: _speed(name, size, evidence, roofline, params) for size in recipe.measured.latency_ms}
        footprint = _footprint(recipe.measured, None if name == BASELINE else baseline.measured)
    return Recipe(
        traits=recipe.traits, accuracy=accuracy, speeds=speeds, footprint=footprint, unavailable=recipe.unavailable
    )


def _accuracy(recipe: Evidence, baseline: Logits | None, labels: NDArray[np.int64]) -> Accuracy:
    logits = recipe.logits
    assert logits is not None
    tops = {k: statistics.proportion(hits(logits, labels, k)).rounded(2) for k in (1, 5) if k < logits.shape[1]}
    alone = Accuracy(device=recipe.device, top1=tops[1], top5=tops.get(5))
    if baseline is None:
        return alone
    deltas: dict[int, Estimate] = {}
    for k in tops:
        ours, theirs = hits(logits, labels, k), hits(baseline, labels, k)
        deltas[k] = statistics.paired_difference(ours, theirs).rounded(2)
    cosine = recipe.cosine
    gained, lost = discordant(hits(logits, labels, 1), hits(baseline, labels, 1))
    return alone.model_copy(
        update={
            "top1_delta": deltas[1],
            "top5_delta": deltas.get(5),
            "gained": gained,
            "lost": lost,
            "mcnemar_p": round(statistics.mcnemar_p(gained, lost), 4),
            "agreement_pct": round(100 * float(np.mean(logits.argmax(axis=1) == baseline.argmax(axis=1))), 2),
            "class_token_mean_cosine": None if cosine is None else round(float(cosine.mean()), 5),
            "class_token_least_cosine": None if cosine is None else round(float(cosine.min()), 5),
        }
    )


def _speed(name: str, size: int, evidence: Mapping[str, Evidence], roofline: Roofline, params: Report) -> Speed:
    recipe = evidence[name]
    assert recipe.measured is not None
    samples = np.array(recipe.measured.latency_ms[size])
    spread = statistics.distribution(samples)
    pairs = _pairs(name, size, evidence)

    def ratio_to(reference: str) -> Estimate | None:
        if reference not in pairs:
            return None
        return statistics.paired_ratio(*pairs[reference], params.resamples, params.seed).rounded(3)

    def rival(names: Iterable[str]) -> Rival | None:
        medians = {other: float(np.median(pairs[other][0] / pairs[other][1])) for other in names}
        fastest = min(medians, key=lambda other: medians[other], default="")
        ratio = ratio_to(fastest)
        return Rival(recipe=fastest, ratio=ratio) if ratio else None

    energy = recipe.measured.energy_mj.get(size)
    products_per_s = 1000 * roofline.products_per_image * size / spread["p50"]
    limit = roofline.register_products_per_s.get(recipe.traits.arithmetic)
    return Speed(
        p50_ms=round(spread["p50"], 2),
        p90_ms=round(spread["p90"], 2),
        p99_ms=round(spread["p99"], 2),
        mean=statistics.mean_ms(samples, params.resamples, params.seed).rounded(2),
        cv_pct=round(spread["cv_pct"], 2),
        images_per_s=round(1000 * size / spread["p50"], 2),
        speedup=ratio_to(BASELINE),
        fastest_other=rival(pairs),
        best_float=rival(other for other in pairs if not evidence[other].traits.quantized),
        energy_mj=None if energy is None else round(energy, 3),
        gproducts_per_s=round(products_per_s / 1e9, 1),
        register_pct=round(100 * products_per_s / limit, 1) if limit else None,
    )


def _pairs(name: str, size: int, evidence: Mapping[str, Evidence]) -> dict[str, tuple[Times, Times]]:
    """Of each other recipe its times and this one's, milliseconds, in the rounds that both have."""
    pairs = {}
    for other, recipe in evidence.items():
        if other != name and recipe.measured and size in recipe.measured.latency_ms:
            times = [np.array(each.latency_ms[size]) for each in (recipe.measured, evidence[name].measured) if each]
            rounds = min(map(len, times))  # one that was too slow has the first ones only
            pairs[other] = times[0][:rounds], times[1][:rounds]
    return pairs


def _footprint(measured: Measured, baseline: Measured | None) -> Footprint:
    process = measured.process_memory_bytes
    reduction = round(100 * (1 - measured.size_bytes / baseline.size_bytes), 2) if baseline else None
    return Footprint(
        memory_model_mb=round(measured.memory_bytes.model / MB, 1),
        memory_peak_mb=round(measured.memory_bytes.peak / MB, 1),
        memory_process_mb=None if process is None else round(process / MB, 1),
        size_mb=round(measured.size_bytes / MB, 2),
        size_reduction_pct=reduction,
    )
