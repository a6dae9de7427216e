"""From samples to estimates: the one place where the statistics of a study are made, of the CPU's and of GPUs'."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitquant.analysis import statistics
from vitquant.analysis.findings import Accuracy, Estimate, Footprint, Half, Recipe, Roofline, Speed
from vitquant.analysis.statistics import hits
from vitquant.params import BASELINE, Report
from vitquant.results.benchmark import Measured
from vitquant.traits import Traits

MB = 1e6
HALVES: tuple[Literal["bfloat16", "float16"], ...] = ("bfloat16", "float16")
Logits = NDArray[np.float32]


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


def half_reference(evidence: Mapping[str, Evidence]) -> Half | None:
    """What 8 bits have to beat: the first compiled BF16 recipe that could be loaded, else the first in FP16."""
    for arithmetic in HALVES:
        for name, recipe in evidence.items():
            traits = recipe.traits
            compiled = traits.execution == "compiled" and not traits.quantized and traits.arithmetic == arithmetic
            if compiled and recipe.measured:
                return Half(recipe=name, arithmetic=arithmetic)
    return None


def recipes(
    evidence: Mapping[str, Evidence], labels: NDArray[np.int64], roofline: Roofline, params: Report
) -> dict[str, Recipe]:
    """Every recipe's estimates.

    Args:
        labels: of the validation images, (N,).
    """
    return {name: _recipe(name, evidence, labels, roofline, params) for name in evidence}


def _recipe(
    name: str, evidence: Mapping[str, Evidence], labels: NDArray[np.int64], roofline: Roofline, params: Report
) -> Recipe:
    recipe, baseline = evidence[name], evidence[BASELINE]
    accuracy = None
    if recipe.logits is not None:
        accuracy = _accuracy(recipe, None if name == BASELINE else baseline.logits, labels, params)
    speeds, footprint = {}, None
    if recipe.measured:
        speeds = {size: _speed(name, size, evidence, roofline, params) for size in recipe.measured.latency_ms}
        footprint = _footprint(recipe.measured, None if name == BASELINE else baseline.measured)
    return Recipe(
        traits=recipe.traits, accuracy=accuracy, speeds=speeds, footprint=footprint, unavailable=recipe.unavailable
    )


def _accuracy(recipe: Evidence, baseline: Logits | None, labels: NDArray[np.int64], params: Report) -> Accuracy:
    logits = recipe.logits
    assert logits is not None
    tops = {k: statistics.proportion(hits(logits, labels, k)).rounded(2) for k in (1, 5) if k < logits.shape[1]}
    alone = Accuracy(device=recipe.device, top1=tops[1], top5=tops.get(5))
    if baseline is None:
        return alone
    deltas: dict[int, Estimate] = {}
    for k in tops:
        ours, theirs = hits(logits, labels, k), hits(baseline, labels, k)
        deltas[k] = statistics.paired_difference(ours, theirs, params.resamples, params.seed).rounded(2)
    cosine = recipe.cosine
    return alone.model_copy(
        update={
            "top1_delta": deltas[1],
            "top5_delta": deltas.get(5),
            "mcnemar_p": round(statistics.mcnemar_p(hits(logits, labels, 1), hits(baseline, labels, 1)), 4),
            "agreement_pct": round(100 * float(np.mean(logits.argmax(axis=1) == baseline.argmax(axis=1))), 2),
            "class_token_mean_cosine": None if cosine is None else round(float(cosine.mean()), 5),
            "class_token_least_cosine": None if cosine is None else round(float(cosine.min()), 5),
        }
    )


def _speed(name: str, size: int, evidence: Mapping[str, Evidence], roofline: Roofline, params: Report) -> Speed:
    recipe, half = evidence[name], half_reference(evidence)
    assert recipe.measured is not None
    samples = np.array(recipe.measured.latency_ms[size])
    spread = statistics.distribution(samples)

    def ratio_to(reference: str | None) -> Estimate | None:
        times = reference and evidence[reference].measured
        if not times or size not in times.latency_ms or name in (reference, BASELINE):
            return None
        rounds = min(len(times.latency_ms[size]), len(samples))  # the same first ones, where one was too slow for all
        pairs = np.array(times.latency_ms[size][:rounds]), samples[:rounds]
        return statistics.paired_ratio(*pairs, params.resamples, params.seed).rounded(3)

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
        vs_half=ratio_to(half.recipe) if half else None,
        energy_mj=None if energy is None else round(energy, 3),
        gproducts_per_s=round(products_per_s / 1e9, 1),
        register_pct=round(100 * products_per_s / limit, 1) if limit else None,
    )


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
