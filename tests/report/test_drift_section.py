"""Drift in the report: tables, verdicts, the audit's row and the figure from the same predictions."""

from pathlib import Path

import handmade
import matplotlib as mpl
import numpy as np
import pytest

from vitquant.analysis import claims, rules
from vitquant.analysis import drift as analysis
from vitquant.params import Params
from vitquant.report import drift_section, style
from vitquant.results import form, outliers
from vitquant.results.drift import FILE, Drifts, Inputs, Recalibrated, Row, encoded

IMAGES = 200
TRUTH = np.arange(IMAGES) % 2
ORDER = np.random.default_rng(0).permutation(IMAGES)
CLAIM = "regular recalibration"


def wrong(count: int) -> str:
    """That many of the images get the other class, all of those that fewer do among them."""
    classes = TRUTH.copy()
    classes[ORDER[:count]] = 1 - classes[ORDER[:count]]
    return encoded(classes)


def drifts(params: Params | None = None, recalibrated: int = 20) -> Drifts:
    """Noise costs FP32 5 points and static-int8 30 more; recalibrated it gets so many wrong."""
    names = ("fp32", "dynamic-int8", "static-int8")
    seen = Inputs(images=IMAGES, discrepancy=0.1, discrepancy_p=0.001, confidence_p=0.2, changed=True)
    return Drifts(
        labels=TRUTH.tolist(),
        inputs=outliers.inputs(params, names[:2]) if params else handmade.DIGEST,
        artifacts=dict.fromkeys(names, handmade.DIGEST),
        environment=handmade.ENVIRONMENT,
        rows=[
            Row(kind="clean", strength=0.0, predicted=dict.fromkeys(names, wrong(10))),
            Row(
                kind="noise",
                strength=0.2,
                predicted=dict(zip(names, map(wrong, (20, 20, 80)), strict=True)),
                inputs=seen,
            ),
        ],
        recalibrated=[Recalibrated(kind="noise", strength=0.2, recipe="static-int8", predicted=wrong(recalibrated))],
        uncalibrated=["dynamic-int8"],
    )


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_models_loss_and_quantizations_are_apart() -> None:
    clean, noise = analysis.conditions(drifts(), {"static-int8": 0.02})
    assert (clean.own.value, noise.own.value, noise.fp32.value) == (0, -5, 90)
    assert noise.recipes["static-int8"].loss.value == -30
    assert noise.recipes["dynamic-int8"].loss.value == 0
    alarm = noise.recipes["static-int8"].alarm
    assert alarm
    assert 1 < alarm < IMAGES
    assert clean.recipes["static-int8"].alarm is None
    text = drift_section.section(drifts(), {"static-int8": 0.02})
    losses, alarms = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| noise, σ")
    )
    assert [cell.partition(" ")[0] for cell in losses[1:]] == ["90.0", "-5.0", "+0.0", "-30.0"]
    assert alarms[1:] == ["yes (p 0.001)", "100.0 %, no bound", f"70.0 %, alarm at {alarm}"]


def test_recalibration_is_judged_by_recipe() -> None:
    text = drift_section.section(drifts(), {})
    assert cells(text, "static-int8")[3].startswith("+30.0 [+")
    assert "`static-int8` wins back +30.0 " in text
    assert "Calibration images change nothing of `dynamic-int8`: there is nothing to recalibrate." in text


@pytest.mark.parametrize(
    ("after", "expected", "why"),
    [
        (20, rules.REPRODUCED, "`static-int8` wins back +30.0 ["),
        (80, rules.MISSED, "`static-int8` wins back +0.0 [-1.9, +1.9] pp over all kinds: no difference is shown"),
        (160, rules.MISSED, "`static-int8` wins back -40.0 ["),
        (76, rules.INCONCLUSIVE, "`static-int8` wins back +2.0 ["),
    ],
)
def test_the_audit_follows_the_data(after: int, expected: str, why: str) -> None:
    found = {each.claim.what: each for each in claims.audit(handmade.findings(), drifts=drifts(recalibrated=after))}
    assert found[CLAIM].verdict == expected
    assert found[CLAIM].reason.startswith(why)
    assert found[CLAIM].reason.endswith("nothing to recalibrate in `dynamic-int8`")


def test_without_data_the_audit_names_the_command() -> None:
    found = {each.claim.what: each for each in claims.audit(handmade.findings())}[CLAIM]
    assert (found.verdict, found.measured) == (rules.UNMEASURED, None)
    assert "`make drift`" in found.reason


def test_the_figure_has_a_panel_for_each_kind() -> None:
    with mpl.rc_context(style.STYLE):
        figure = drift_section.figure(drifts())
        figure.draw_without_rendering()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    lines = figure.axes[titles.index("noise")].lines
    assert [line.get_ydata()[-1] for line in lines] == pytest.approx([90, 90, 60])


def test_only_that_of_this_study_is_read(params: Params, tmp_path: Path) -> None:
    assert analysis.read(tmp_path, params) is None
    assert drift_section.section(None, {}) == drift_section.NONE
    names = ("fp32", "dynamic-int8")
    whole = drifts(params)
    rows = [row.model_copy(update={"predicted": {name: row.predicted[name] for name in names}}) for row in whole.rows]
    artifacts = dict.fromkeys(names, handmade.DIGEST)
    ours = whole.model_copy(update={"rows": rows, "artifacts": artifacts, "recalibrated": []})
    form.write(tmp_path / FILE, ours)
    assert analysis.read(tmp_path, params) == ours
    other = params.calibration.model_copy(update={"seed": 1})
    assert analysis.read(tmp_path, params.model_copy(update={"calibration": other})) is None
    form.write(tmp_path / FILE, whole)
    assert analysis.read(tmp_path, params) is None  # which has no static-int8


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"rows": []}, "before recalibration"),
        ({"labels": [0, 1]}, "200 images of 2"),
        ({"artifacts": {"fp32": handmade.DIGEST}}, "recipes of artifacts"),
    ],
)
def test_what_does_not_belong_together_is_refused(changed: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Drifts(**{**dict(drifts()), **changed})
