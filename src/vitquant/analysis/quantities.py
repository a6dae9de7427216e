"""What was measured here of what the seed report states: one function per quantity, of one recipe's findings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vitquant.analysis.findings import Estimate, Findings, Recipe, Study
from vitquant.analysis.studies import is_vit_b
from vitquant.params import BASELINE

SHAPES = {  # width, heads, layers: Dosovitskiy et al. 2021, table 1; Touvron et al. 2021
    "vit_small": (384, 6, 12),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 16, 24),
}


@dataclass(frozen=True)
class Measured:
    """A value, and where it was measured. Texts are plain, with code in backticks."""

    value: Estimate | float | str
    unit: str = ""
    form: str = ""
    """As Python formats the value."""
    where: str = ""
    label: str = ""
    """What stands before the value."""
    study: Study | None = None
    """Where it is not plain which one."""


Quantity = Callable[[Findings, str], Measured | None]
"""Of the findings and a recipe's name; None where it was not measured."""


def quote(text: str) -> str:
    """Text that is not ours, inside of ours: a backtick would begin code, and looks like this one."""
    return text.replace("`", "\N{MODIFIER LETTER GRAVE ACCENT}")


def model(findings: Findings, recipe: str) -> Measured:
    """The architecture."""
    return Measured(f"`{quote(findings.study.facts.model)}`")


def data(findings: Findings, recipe: str) -> Measured:
    """The data set."""
    return Measured(quote(findings.study.facts.data))


def input_size(findings: Findings, recipe: str) -> Measured | None:
    """Of the images, pixels."""
    crop = findings.study.facts.crop
    return Measured(f"{crop} × {crop}") if crop else None


def shape(index: int) -> Quantity:
    """The model's width, heads or layers, by its index in SHAPES."""

    def quantity(findings: Findings, recipe: str) -> Measured | None:
        name = findings.study.facts.model
        known = next((shape for prefix, shape in SHAPES.items() if name.startswith(prefix)), None)
        return Measured(str(known[index])) if known else None

    return quantity


def words(text: str) -> Quantity:
    """What is said in words."""
    return lambda findings, recipe: Measured(text)


def mean_latency(findings: Findings, recipe: str) -> Measured | None:
    """At the first batch size."""
    found = _recipe(findings, recipe)
    size = findings.study.sizes[0]
    if not found or size not in found.speeds:
        return None
    return Measured(found.at(size).mean or found.at(size).p50_ms, "ms", ".1f", _where(findings))


def t4_latency(findings: Findings, recipe: str) -> Measured | None:
    """Of a ViT-B on a T4 at the first batch size; else as `mean_latency`."""
    for device, study in _studies(findings):
        if "T4" in device and is_vit_b(study) and recipe in study.recipes:
            speed = study.recipes[recipe].speeds.get(study.sizes[0])
            if speed and speed.mean:
                return Measured(speed.mean, "ms", ".1f", f"{quote(device)}, batch {study.sizes[0]}", study=study)
    return mean_latency(findings, recipe)


def time_change(findings: Findings, recipe: str) -> Measured | None:
    """The change in time that the speed-up at the first batch size is, in percent."""
    found, size = _recipe(findings, recipe), findings.study.sizes[0]
    ratio = found.speedup(size) if found else None
    if not ratio:
        return None
    return Measured(less_time(ratio), "%", "+.1f", f"`{recipe}` against eager `{BASELINE}`, {_where(findings)}")


def less_time(speedup: Estimate) -> Estimate:
    """The change in time that a speed-up is, in percent."""
    value, low, high = (100 * (1 / number - 1) for number in (speedup.value, speedup.high, speedup.low))
    return Estimate(value=value, low=low, high=high, unit="%")


def variation(findings: Findings, recipe: str) -> Measured | None:
    """The robust spread of the launches' median latencies at the first batch size, in percent."""
    found, size = _recipe(findings, recipe), findings.study.sizes[0]
    spread = found.at(size).spread_pct if found and size in found.speeds else None
    if spread is None:
        return None
    before = findings.study.baseline.at(size).spread_pct
    where = f"`{recipe}`, {_where(findings)}" + ("" if before is None else f"; `{BASELINE}` {before:.1f} %")
    return Measured(spread, "%", ".1f", where, label="spread over launches")


def peak_memory(findings: Findings, recipe: str) -> Measured | None:
    """At batch 1, MB."""
    found = _recipe(findings, recipe)
    if not found or not found.footprint:
        return None
    return Measured(found.footprint.memory_peak_mb, "MB", ".1f", f"peak, {_where(findings)}")


def model_size(findings: Findings, recipe: str) -> Measured | None:
    """On disk, MB."""
    found = _recipe(findings, recipe)
    if not found or not found.footprint:
        return None
    return Measured(found.footprint.size_mb, "MB", ".1f", f"`{quote(findings.study.facts.model)}`")


def memory_change(findings: Findings, recipe: str) -> Measured | None:
    """Of the peak, against FP32, in percent."""
    return _change(findings, recipe, peak_memory, f"`{recipe}`, peak, {_where(findings)}")


def size_change(findings: Findings, recipe: str) -> Measured | None:
    """Against FP32, in percent."""
    return _change(findings, recipe, model_size, f"`{recipe}`")


def top1(findings: Findings, recipe: str) -> Measured | None:
    """In percent."""
    return _accuracy(findings, recipe, lambda found: found.accuracy.top1 if found.accuracy else None)


def top5(findings: Findings, recipe: str) -> Measured | None:
    """In percent."""
    return _accuracy(findings, recipe, lambda found: found.accuracy.top5 if found.accuracy else None)


def top1_delta(findings: Findings, recipe: str) -> Measured | None:
    """Less FP32's, pp."""
    return _accuracy(findings, recipe, lambda found: found.top1_delta)


def top5_delta(findings: Findings, recipe: str) -> Measured | None:
    """Less FP32's, pp."""
    return _accuracy(findings, recipe, lambda found: found.accuracy.top5_delta if found.accuracy else None)


def version(key: str) -> Quantity:
    """Of a library."""
    return lambda findings, recipe: Measured(quote(getattr(findings.study.environment, key)))


def cuda_version(findings: Findings, recipe: str) -> Measured | None:
    """Of the first GPU's study."""
    used = [study.environment.cuda for gpu in findings.gpus for study in gpu.studies.values()]
    return next((Measured(quote(cuda)) for cuda in used if cuda), None)


def gpus(findings: Findings, recipe: str) -> Measured:
    """The devices that were measured, or the machine's own."""
    devices = ", ".join(gpu.device for gpu in findings.gpus)
    return Measured(quote(devices or findings.study.environment.gpu))


def main_memory(findings: Findings, recipe: str) -> Measured:
    """Of the machine."""
    return Measured(f"{findings.study.environment.memory_gb} GB")


def processor(findings: Findings, recipe: str) -> Measured:
    """Of the machine."""
    return Measured(f"{findings.study.environment.cores} cores, {quote(findings.study.environment.cpu)}")


def is_seeds(study: Study) -> bool:
    """Whether a study is the seed report's own: its model, and its data."""
    return is_vit_b(study) and study.facts.data == "tiny-imagenet"


def _studies(findings: Findings) -> Iterator[tuple[str, Study]]:
    """Every study with its device; the report's own, on the CPU, has none."""
    yield "", findings.study
    for gpu in findings.gpus:
        for study in gpu.studies.values():
            yield gpu.device, study


def _accuracy(findings: Findings, recipe: str, of: Callable[[Recipe], Estimate | None]) -> Measured | None:
    """From the seed report's own study, if one was measured, else from this one."""
    sources = [*(source for source in _studies(findings) if is_seeds(source[1])), ("", findings.study)]
    for device, study in sources:
        if study.facts.embedding:
            continue  # neighbours' accuracy is no classifier's
        found = of(study.recipes[recipe]) if recipe in study.recipes else None
        if found:
            where = f"{study.facts.eval_images:,} images"
            if device:
                where = f"`{quote(study.facts.model)}` on {quote(study.facts.data)}, {where}, {quote(device)}"
            form = "+.2f" if found.unit == "pp" else ".2f"
            return Measured(
                found, found.unit, form, f"`{recipe}`, {where}" if found.unit == "pp" else where, study=study
            )
    return None


def _recipe(findings: Findings, name: str) -> Recipe | None:
    return findings.study.recipes.get(name)


def _where(findings: Findings) -> str:
    return f"CPU, batch {findings.study.sizes[0]}"


def _change(findings: Findings, recipe: str, quantity: Quantity, where: str) -> Measured | None:
    ours, theirs = quantity(findings, recipe), quantity(findings, BASELINE)
    if not ours or not theirs or not isinstance(ours.value, float) or not isinstance(theirs.value, float):
        return None
    return Measured(100 * (ours.value / theirs.value - 1), "%", "+.1f", f"{where}, no interval")
