"""The audit of the seed report: every number and fact it states, what was measured here, and a verdict by a rule.

The rule is written in docs/method.md and `judge`; the claims stand in `audit`, in the seed report's order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vitquant.params import SEED_RECIPE
from vitquant.report.answer import BUDGET, subject
from vitquant.report.tables import batch_sizes
from vitquant.report.text import MISSING, bracket, code, escape, estimate, interval_key, listing

REPRODUCED, EXCEEDED, MISSED = "reproduced", "exceeded", "not reproduced"
IMPOSSIBLE, UNMEASURED = "cannot be as stated", "not measured here"

# The seed report's numbers: before and after quantization, and the change.
LATENCY_MS, LATENCY_CHANGE = (45.3, 28.7), -36.6
MEMORY_MB, MEMORY_CHANGE = (342.0, 126.0), -63.2
SIZE_MB, SIZE_CHANGE = (86.4, 22.1), -74.4
TOP1_PCT, TOP1_CHANGE = (81.24, 80.96), -0.28
TOP5_PCT, TOP5_CHANGE = (95.67, 95.42), -0.25

# The rule's constants: docs/method.md says why.
EXACT = 1.0  # percentage points that a change without an interval may be off
WIDEST_CHANGE = 10.0  # percentage points, of an interval that confirms a relative change
WIDEST_DIFFERENCE = 1.0  # pp, of an interval that confirms a difference in accuracy
WIDEST_ACCURACY = 5.0  # percentage points, of an interval that confirms an accuracy
STEADY_CV = 5.0  # percent
FEWEST_CLASSES = 25  # of which a top-5 says something

VIT_B_PARAMETERS = 86.4  # millions: of ViT-B/16 with its head; DINOv2's ViT-B/14 has 86.6
SHAPES = {  # width, heads, layers: Dosovitskiy et al. 2021, table 1; Touvron et al. 2021
    "vit_small": (384, 6, 12),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 16, 24),
}


@dataclass(frozen=True)
class Finding:
    """One row of the audit, all in Markdown."""

    claim: str
    claimed: str
    measured: str
    verdict: str
    reason: str


def audit(metrics: dict[str, Any], cuda: dict[str, Any], crop: int | None) -> list[Finding]:
    """Every claim of the seed report, in its order.

    Args:
        metrics: the content of metrics.json.
        cuda: the files of results/cuda by name; they may hold the seed report's own study.
        crop: the model's input side in this study, pixels.
    """
    return [
        *_model(metrics, crop),
        *_method(cuda),
        *_performance(metrics),
        *_accuracies(metrics, cuda),
        *_setup(metrics, cuda),
    ]


def count(findings: Sequence[Finding]) -> str:
    """How many claims have each verdict, in words."""
    verdicts = (REPRODUCED, EXCEEDED, MISSED, IMPOSSIBLE, UNMEASURED)
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in verdicts}
    return f"of {len(findings)} claims, " + listing(
        [f"{number} {verdict}" for verdict, number in counts.items() if number]
    )


def judge(
    claimed: float, measured: float, interval: list[float] | None, widest: float, less_is_better: bool
) -> tuple[str, str]:
    """The verdict on a number that both measured, and why.

    Exceeded: the whole interval is better than the claim. Not reproduced: it is all worse. Where it holds the claim:
    reproduced, unless it is wider than `widest` and so could hold nearly anything. Without an interval, a
    value within EXACT of the claim reproduces it.
    """
    sign = -1 if less_is_better else 1
    if interval is None:
        if abs(measured - claimed) <= EXACT:
            return REPRODUCED, f"within {EXACT:g} percentage point of the claim"
        better = sign * (measured - claimed) > 0
        return (EXCEEDED, "better than claimed") if better else (MISSED, "less than claimed")
    low, high = sorted(sign * bound for bound in interval)
    if low > sign * claimed:
        return EXCEEDED, "the whole interval is better than the claim"
    if high < sign * claimed:
        return MISSED, "the whole interval is worse than the claim"
    width = high - low
    if width <= widest:
        return REPRODUCED, "the claim lies within the interval"
    return MISSED, f"the interval holds the claim, but at a width of {width:.1f} points it cannot confirm it"


def _model(metrics: dict[str, Any], crop: int | None) -> Iterator[Finding]:
    model = str(metrics["study"]["model"])
    yield Finding(
        "architecture", "DINOv2 as ViT-Base/16, patches of 16 × 16", code(model), IMPOSSIBLE,
        "DINOv2 was published with patches of 14 only: `dinov2_vits14`, `vitb14`, … (Oquab et al. 2023)",
    )  # fmt: skip
    size = f"{crop} × {crop}" if crop else MISSING
    verdict, reason = (REPRODUCED, "the same input") if crop == 224 else (UNMEASURED, "another input size")  # noqa: PLR2004
    yield Finding("input", "224 × 224 pixels", size, verdict, reason)
    shape = next((shape for name, shape in SHAPES.items() if model.startswith(name)), None)
    for index, (what, claimed) in enumerate((("hidden width", 768), ("attention heads", 12), ("layers", 12))):
        measured = shape[index] if shape else None
        same = measured == claimed
        yield Finding(
            what, str(claimed), str(measured or MISSING), REPRODUCED if same else UNMEASURED,
            "as in the model measured here" if same else "true of a ViT-B; another model was measured here",
        )  # fmt: skip
    yield Finding(
        "data", "Tiny ImageNet, centre-cropped to 224 × 224", escape(metrics["study"]["data"]), IMPOSSIBLE,
        "Tiny ImageNet's images are 64 × 64: they must be enlarged before 224 × 224 can be cut out of them",
    )  # fmt: skip


def _method(cuda: dict[str, Any]) -> Iterator[Finding]:
    yield Finding(
        "method", "dynamic quantization that keeps activations in floating point", f"{code(SEED_RECIPE)}", IMPOSSIBLE,
        "dynamic quantization rounds each linear layer's input to 8 bits at run time; weight-only methods keep it",
    )  # fmt: skip
    errors = {
        device: str(content["quantize_dynamic"]) for device, content in _devices(cuda) if "quantize_dynamic" in content
    }
    evidence = "; ".join(f"on {escape(device)} PyTorch says: {escape(error)}" for device, error in errors.items())
    yield Finding(
        "where it ran", "`quantize_dynamic` on an NVIDIA T4", "on the CPU, the only place it runs", IMPOSSIBLE,
        evidence or "`quantized::linear_dynamic` has CPU backends only (x86, onednn, fbgemm, qnnpack), no CUDA kernel",
    )  # fmt: skip


def _performance(metrics: dict[str, Any]) -> Iterator[Finding]:
    recipes = metrics["recipes"]
    fp32, seed = recipes["fp32"], recipes.get(SEED_RECIPE, {})
    model, batch = code(metrics["study"]["model"]), batch_sizes(metrics)[0]
    where = f"CPU, batch {batch}"
    key = f"latency_b{batch}_mean_ms" if f"latency_b{batch}_mean_ms" in fp32 else f"latency_b{batch}_ms_p50"
    yield Finding(
        "average inference, FP32", f"{LATENCY_MS[0]} ms", _on(fp32, key, ".1f", "ms", where), UNMEASURED,
        "an absolute time holds for its own hardware, a T4; the batch size is not stated",
    )  # fmt: skip
    yield Finding(
        "average inference, INT8", f"{LATENCY_MS[1]} ms", _on(seed, key, ".1f", "ms", where), IMPOSSIBLE,
        "stated for a GPU, where `quantize_dynamic` cannot run",
    )  # fmt: skip
    ratio = f"speedup_b{batch}_x"
    yield _change("inference time", LATENCY_CHANGE, _slower(seed, ratio), f"{code(SEED_RECIPE)}, {where}",
                  _best(metrics, lambda recipe: _slower(recipe, ratio)))  # fmt: skip
    weights = 4 * VIT_B_PARAMETERS
    yield Finding(
        "memory, FP32", f"{MEMORY_MB[0]:g} MB", _on(fp32, "memory_peak_mb", ".1f", "MB", f"peak, {where}"), IMPOSSIBLE,
        "that is a ViT-B's FP32 weights by themselves (4 bytes × 85.6 million); to run it takes activations too",
    )  # fmt: skip
    yield Finding(
        "memory, INT8", f"{MEMORY_MB[1]:g} MB", _on(seed, "memory_peak_mb", ".1f", "MB", f"peak, {where}"), UNMEASURED,
        "what was counted is not stated: neither the INT8 weights of a ViT-B (88 MB) nor a whole process",
    )  # fmt: skip
    yield _change("memory", MEMORY_CHANGE, _saved(seed, fp32, "memory_peak_mb"), f"{code(SEED_RECIPE)}, peak, {where}",
                  _best(metrics, lambda recipe: _saved(recipe, fp32, "memory_peak_mb")))  # fmt: skip
    yield Finding(
        "model size, FP32", f"{SIZE_MB[0]} MB", _on(fp32, "size_mb", ".1f", "MB", model), IMPOSSIBLE,
        f"{VIT_B_PARAMETERS} is a ViT-B's number of parameters in millions; in FP32 they take {weights:.1f} MB",
    )  # fmt: skip
    yield Finding(
        "model size, INT8", f"{SIZE_MB[1]} MB", _on(seed, "size_mb", ".1f", "MB", model), IMPOSSIBLE,
        f"{VIT_B_PARAMETERS} million INT8 weights take at least {VIT_B_PARAMETERS} MB",
    )  # fmt: skip
    yield _change("model size", SIZE_CHANGE, _saved(seed, fp32, "size_mb"), code(SEED_RECIPE),
                  _best(metrics, lambda recipe: _saved(recipe, fp32, "size_mb")))  # fmt: skip
    cv = f"latency_b{batch}_cv_pct"
    if cv in seed:
        steady = seed[cv] <= STEADY_CV
        yield Finding(
            "variance over runs", "low", f"coefficient of variation {seed[cv]:.1f} % ({code(SEED_RECIPE)}, {where}); "
            f"{code('fp32')} {fp32[cv]:.1f} %", REPRODUCED if steady else MISSED,
            f"{'at most' if steady else 'more than'} {STEADY_CV:g} %; no number was claimed",
        )  # fmt: skip
    else:
        yield Finding("variance over runs", "low", MISSING, UNMEASURED, f"{code(SEED_RECIPE)} was not timed")


def _accuracies(metrics: dict[str, Any], cuda: dict[str, Any]) -> Iterator[Finding]:
    seeds = [source for source in _studies(metrics, cuda) if _is_seeds(source[1]["study"])]
    for top, (before, after), change in (("top1", TOP1_PCT, TOP1_CHANGE), ("top5", TOP5_PCT, TOP5_CHANGE)):
        label = top.replace("top", "top-")
        for what, recipe, claimed in (("FP32", "fp32", before), ("INT8", SEED_RECIPE, after)):
            yield _accuracy(f"{label}, {what}", claimed, f"{top}_pct", recipe, seeds, metrics)
        yield _difference(f"{label}, difference", change, f"{top}_delta_pp", [*seeds, ("", metrics)])
    yield _within(metrics, seeds)


def _accuracy(what: str, claimed: float, key: str, recipe: str, seeds: Any, metrics: dict[str, Any]) -> Finding:
    """An accuracy belongs to its model and data: only the seed report's own study can confirm it."""
    for place, study in seeds:
        values = study["recipes"].get(recipe, {})
        if key in values:
            verdict, reason = judge(
                claimed, values[key], values.get(interval_key(key)), WIDEST_ACCURACY, less_is_better=False
            )
            return Finding(what, f"{claimed} %", _on(values, key, ".2f", "%", _place(study, place)), verdict, reason)
    here = _on(metrics["recipes"].get(recipe, {}), key, ".2f", "%", _place(metrics, ""))
    reason = "an accuracy belongs to its model and data: DINOv2 ViT-B on Tiny ImageNet (`make repro-full`)"
    return Finding(what, f"{claimed} %", here, UNMEASURED, reason)


def _difference(what: str, claimed: float, key: str, sources: Any) -> Finding:
    for place, study in sources:
        values = study["recipes"].get(SEED_RECIPE, {})
        if key in values:
            verdict, reason = judge(
                claimed, values[key], values[interval_key(key)], WIDEST_DIFFERENCE, less_is_better=False
            )
            if key.startswith("top5") and study["study"]["classes"] < FEWEST_CLASSES:
                verdict = UNMEASURED
                reason = (
                    f"the top 5 of {study['study']['classes']} classes hold the truth nearly always, quantized or not"
                )
            on = f"{code(SEED_RECIPE)}, {_place(study, place)}"
            return Finding(what, f"{claimed:+} pp", _on(values, key, "+.2f", "pp", on), verdict, reason)
    reason = sources[-1][1]["recipes"].get(SEED_RECIPE, {}).get("unavailable", {})
    why = reason.get(key.partition("_")[0]) or reason.get("accuracy") or f"the study has no accuracy of {SEED_RECIPE}"
    return Finding(what, f"{claimed:+} pp", MISSING, UNMEASURED, escape(why))


def _within(metrics: dict[str, Any], seeds: Any) -> Finding:
    what, claimed = "accuracy kept", f"within {BUDGET:g} %"
    for place, study in [*seeds, ("", metrics)]:
        values = study["recipes"].get(SEED_RECIPE, {})
        if "top1_delta_pp" in values:
            low, high = values["top1_delta_ci95_pp"]
            measured = _on(values, "top1_delta_pp", "+.2f", "pp", f"{code(SEED_RECIPE)}, {_place(study, place)}")
            if low >= -BUDGET:
                return Finding(what, claimed, measured, REPRODUCED, "the whole interval is within that bound")
            if high < -BUDGET:
                return Finding(what, claimed, measured, MISSED, "the whole interval is beyond that bound")
            reason = f"the interval reaches {low:+.2f} pp: a loss beyond the bound is not excluded"
            return Finding(what, claimed, measured, MISSED, reason)
    return Finding(what, claimed, MISSING, UNMEASURED, f"the study has no accuracy of {code(SEED_RECIPE)}")


def _setup(metrics: dict[str, Any], cuda: dict[str, Any]) -> Iterator[Finding]:
    environment = metrics["environment"]
    devices = [device for device, _ in _devices(cuda)]
    on_gpu = [study["environment"].get("cuda") for device, study in _studies(metrics, cuda) if device]
    environment = {"cuda": next(filter(None, on_gpu), MISSING), **environment}
    for what, claimed, key in (
        ("PyTorch", "2.0.1", "torch"),
        ("torchvision", "0.15.2", "torchvision"),
        ("Python", "3.8+", "python"),
        ("CUDA", "11.8", "cuda"),
    ):
        here = str(environment.get(key, MISSING))
        same = here.partition("+")[0] == claimed or (claimed == "3.8+" and here.startswith("3."))
        reason = (
            "as claimed" if same else "another version was used here" if here != MISSING else "the CPU's run uses none"
        )
        yield Finding(what, claimed, escape(here), REPRODUCED if same else UNMEASURED, reason)
    t4 = any("T4" in device for device in devices)
    yield Finding(
        "GPU", "NVIDIA T4", escape(", ".join(devices) or environment.get("gpu", MISSING)),
        REPRODUCED if t4 else UNMEASURED, "the same kind of GPU" if t4 else "no T4 was at hand",
    )  # fmt: skip
    elsewhere = "a fact of the seed report's own machine"
    memory = f"{escape(environment.get('memory_gb', MISSING))} GB"
    yield Finding("main memory", "32 GB", memory, UNMEASURED, elsewhere)
    processor = f"{escape(environment.get('cores', MISSING))} cores, {escape(environment.get('cpu', ''))}"
    yield Finding("CPU", "Intel Xeon, 8 cores", processor, UNMEASURED, elsewhere)


def _change(what: str, claimed: float, measured: Any, where: str, best: str) -> Finding:
    """A relative change, in percent; less is better."""
    name = f"{what}, change"
    if measured is None:
        return Finding(name, f"{claimed:+} %", MISSING, UNMEASURED, f"{code(SEED_RECIPE)} was not measured")
    number, interval = measured
    verdict, reason = judge(claimed, number, interval, WIDEST_CHANGE, less_is_better=True)
    shown = f"{number:+.1f}" + (f" {bracket(interval, '+.1f')}" if interval else "")
    note = "" if interval else ", no interval"
    return Finding(name, f"{claimed:+} %", f"{shown} % ({where}{note})", verdict, reason + best)


def _slower(recipe: dict[str, Any], key: str) -> tuple[float, list[float] | None] | None:
    """The change in time that a speed-up is, in percent."""
    if key not in recipe:
        return None
    low, high = recipe[interval_key(key)]
    return 100 * (1 / recipe[key] - 1), [100 * (1 / high - 1), 100 * (1 / low - 1)]


def _saved(recipe: dict[str, Any], fp32: dict[str, Any], key: str) -> tuple[float, list[float] | None] | None:
    return (100 * (recipe[key] / fp32[key] - 1), None) if key in recipe and key in fp32 else None


def _best(metrics: dict[str, Any], change: Any) -> str:
    """What the recipe that the answer is about reaches."""
    name = subject(metrics)
    found = change(metrics["recipes"][name]) if name and name != SEED_RECIPE else None
    return f"; {code(name)} reaches {found[0]:+.1f} %" if found else ""


def _on(recipe: dict[str, Any], key: str, form: str, unit: str, where: str) -> str:
    if key not in recipe:
        return MISSING
    return f"{estimate(recipe, key, form)} {unit} ({where})"


def _place(study: dict[str, Any], device: str) -> str:
    """Where an accuracy was measured; the report's own study, which has no device, is named above the table."""
    facts = study["study"]
    images = f"{facts['eval_images']:,} images"
    return f"{code(facts['model'])} on {escape(facts['data'])}, {images}, {escape(device)}" if device else images


def _is_seeds(study: dict[str, Any]) -> bool:
    return str(study["model"]).startswith("vit_base_patch14_dinov2") and study["data"] == "tiny-imagenet"


def _devices(cuda: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for content in cuda.values():
        yield str(content["device"]), content


def _studies(metrics: dict[str, Any], cuda: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", metrics
    for device, content in _devices(cuda):
        for study in content["studies"].values():
            yield device, study
