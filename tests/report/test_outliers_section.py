"""Outliers in the report: of this study only, table, sentence and figure from the same rows."""

from pathlib import Path

import handmade
import matplotlib as mpl
import pytest

from vitquant.analysis import outliers as analysis
from vitquant.params import Params
from vitquant.report import outliers_section, style
from vitquant.results import form, outliers
from vitquant.results.outliers import Outliers, Row


def row(factor: float, recipe: str, agreeing: int) -> Row:
    """Of 100 images; FP32 has 60 right, the recipe loses half of those that do not agree."""
    lost = (100 - agreeing) // 2
    return Row(
        kind="channels", factor=factor, recipe=recipe, agreeing=agreeing, hits=60 - lost, gained=0, lost=lost, moved=0.5
    )


@pytest.fixture
def measured(params: Params) -> Outliers:
    shares = {"fp32": (100, 100), "dynamic-int8": (90, 20), "steady": (96, 93)}
    rows = [row(factor, name, share[index]) for name, share in shares.items() for index, factor in enumerate((1, 64))]
    return Outliers(
        images=100,
        inputs=outliers.inputs(params, ("fp32", "dynamic-int8")),
        environment=handmade.ENVIRONMENT,
        rows=rows,
    )


def test_the_table_and_who_bears_them(measured: Outliers) -> None:
    text = outliers_section.section(measured)
    assert "At 64 `steady` agrees as without. At 64 agreement falls to 20 % with `dynamic-int8`." in text
    (line,) = [line for line in text.splitlines() if line.startswith("| dynamic-int8")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1].startswith("90.0 [")
    assert cells[2].startswith("20.0 [")
    assert cells[3].startswith("-40.0 [")
    assert cells[4] == "–"  # a logit's difference is of FP32, as a control
    assert "commit 000000000000" in text


def test_the_figure_has_a_line_per_recipe(measured: Outliers) -> None:
    with mpl.rc_context(style.STYLE):
        figure = outliers_section.figure(measured, ["steady"])
        figure.draw_without_rendering()
    names = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert names == {"dynamic-int8": style.GREY, "steady": style.BLUE}


def test_only_those_of_this_study_are_read(params: Params, measured: Outliers, tmp_path: Path) -> None:
    assert analysis.read(tmp_path, params) is None
    assert outliers_section.section(None) == outliers_section.NONE
    ours = measured.model_copy(update={"rows": [row for row in measured.rows if row.recipe != "steady"]})
    form.write(tmp_path / outliers.FILE, ours)
    assert analysis.read(tmp_path, params) == ours
    other = params.calibration.model_copy(update={"seed": 1})
    assert analysis.read(tmp_path, params.model_copy(update={"calibration": other})) is None
    form.write(tmp_path / outliers.FILE, measured)
    assert analysis.read(tmp_path, params) is None  # which has no recipe `steady`


@pytest.mark.parametrize("changed", [{"gained": 99}, {"agreeing": 101}, {"lost": 99}])
def test_counts_that_do_not_go_together_are_refused(measured: Outliers, changed: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="do not go together"):
        Outliers(**{**dict(measured), "rows": [measured.rows[0].model_copy(update=changed)]})
