"""What the report says of images that drift: what it costs, whether the monitor sees it, what recalibration wins."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from vitquant.analysis.drift import Again, Condition, Quantized, again, conditions, gains
from vitquant.errors import printable
from vitquant.params import BASELINE
from vitquant.report.style import BLUE, GREEN, GREY, INK, ORANGE, WIDTH, note
from vitquant.report.tables import table
from vitquant.report.text import MISSING, code, escape, inline, listing, shown
from vitquant.results.drift import CLEAN, KINDS, Drifts, Inputs, Kind

NONE = "What drift of the images does was not measured of this study: `make drift` does."
WORDS: dict[Kind, str] = {
    CLEAN: "as they are",
    "brightness": "brightness × {:g}",
    "contrast": "contrast × {:g}",
    "blur": "blur, σ {:g} pixels",
    "noise": "noise, σ {:g} × 255",
    "jpeg": "JPEG, quality {:g}",
    "colour": "colour cast of {:g}",
    "resolution": "1/{:g} of the pixels each way",
}
COLORS = (INK, GREEN, ORANGE, "#cc79a7", "#e69f00", BLUE)  # all of Okabe & Ito's
COLUMNS = 4  # of the figure's panels


def section(measured: Drifts | None, bounds: Mapping[str, float]) -> str:
    """Losses, what the monitor says, and recalibration; or how to measure them.

    Args:
        bounds: what `vitquant.analysis.drift.disagreements` gives.
    """
    if not measured:
        return NONE
    found, calibrated = conditions(measured, bounds), again(measured)
    environment = measured.environment
    left_out = [f"{code(name)} is left out: {escape(reason)}." for name, reason in measured.left_out.items()]
    return "\n\n".join(
        [
            f"{len(measured.labels)} validation images, evenly of all classes, as another light, lens or camera would "
            "give them; a colour cast of c multiplies red by 1 + c, blue by 1 - c. The model's own loss is FP32's, to "
            "the images as they are; quantization's is what a recipe loses beyond, to FP32 on the same images. "
            "Brackets are 95 % intervals. Measured on "
            f"{escape(environment.cpu)}, commit {escape(environment.git_commit[:12])}.",
            _losses(found),
            "What the [monitor](../docs/serving.md#watching-it) says: whether inputs changed, by one look at the first "
            "images; agreement with FP32, and at which image of the stream the alarm is raised.",
            _alarms(found),
            *([_recalibration(measured, calibrated), _won(calibrated)] if calibrated else []),
            *left_out,
        ]
    )


def _losses(found: Sequence[Condition]) -> str:
    return table(
        {
            "images": WORDS[each.kind].format(each.strength),
            "fp32, top-1 %": shown(each.fp32, ".1f"),
            "its own loss, pp": MISSING if each.kind == CLEAN else shown(each.own, "+.1f"),
            **{f"{escape(name)}, pp": shown(one.loss, "+.1f") for name, one in each.recipes.items()},
        }
        for each in found
    )


def _alarms(found: Sequence[Condition]) -> str:
    return table(
        {
            "images": WORDS[each.kind].format(each.strength),
            "inputs changed": _changed(each.inputs),
            **{escape(name): _alarm(one) for name, one in each.recipes.items()},
        }
        for each in found
    )


def _changed(inputs: Inputs | None) -> str:
    if inputs is None:
        return MISSING
    least = min(inputs.discrepancy_p, inputs.confidence_p)
    return f"{'yes' if inputs.changed else 'no'} (p {least:.2g})"


def _alarm(one: Quantized) -> str:
    raised = f"alarm at {one.alarm}" if one.alarm else "no alarm" if one.bound is not None else "no bound"
    return f"{one.agreement.value:.1f} %, {raised}"


def _recalibration(measured: Drifts, calibrated: Sequence[Again]) -> str:
    fixed = [code(name) for name in measured.uncalibrated]
    nothing = (
        f" Calibration images change nothing of {listing(fixed)}: there is nothing to recalibrate." if fixed else ""
    )
    verdicts = ". ".join(inline(str(gain)) for gain in gains(calibrated))
    return (
        "Recalibrated by training images with the same drift, the strongest of its kind, on the same validation "
        f"images; p is McNemar's, Holm-corrected for {len(calibrated)} comparisons. {verdicts}.{nothing}"
    )


def _won(calibrated: Sequence[Again]) -> str:
    return table(
        (
            {
                "recipe": escape(each.recipe),
                "drift": each.kind,
                "top-1 to fp32, pp": shown(each.before, "+.1f"),
                "won back, pp": shown(each.won, "+.1f"),
                "Holm p": f"{each.p:.2g}",
                "agreement before %": shown(each.agreement[0], ".1f"),
                "after %": shown(each.agreement[1], ".1f"),
            }
            for each in calibrated
        ),
        text_columns=2,
    )


def figure(measured: Drifts | None) -> Figure:
    """Top-1 against the strength, a panel for each kind."""
    if not measured:
        return note("what drift of the images does was not measured of this study: make drift does")
    drawn = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    panels = drawn.subplots(2, COLUMNS, sharey=True).flat
    found = conditions(measured, {})
    clean = found[0]
    for axes, kind in zip(panels, KINDS, strict=False):
        points = [clean, *(each for each in found if each.kind == kind)]
        for name, color in _colors(measured).items():
            top1 = [each.fp32.value + (each.recipes[name].loss.value if name != BASELINE else 0) for each in points]
            axes.plot(np.arange(len(points)), top1, "o-", color=color, markersize=3, linewidth=1.5)
        axes.set_xticks(np.arange(len(points)), ["–", *(f"{each.strength:g}" for each in points[1:])])
        axes.set_title(kind, loc="left")
        axes.set_ylim(bottom=0)
    last = panels[len(KINDS)]
    last.set_axis_off()
    for name, color in _colors(measured).items():
        last.plot([], [], "o-", color=color, markersize=3, label=printable(name))
    last.legend(loc="center", frameon=False, fontsize=8)
    drawn.supylabel("top-1, %", fontsize=11)
    drawn.supxlabel("strength of the drift; –: the images as they are", fontsize=11)
    return drawn


def _colors(measured: Drifts) -> dict[str, str]:
    return {name: COLORS[index] if index < len(COLORS) else GREY for index, name in enumerate(measured.artifacts)}
