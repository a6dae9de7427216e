"""The draws in the report."""

from pathlib import Path

import handmade

from vitquant.analysis.draws import Spread
from vitquant.data.prepared import Prepared
from vitquant.params import Params
from vitquant.report import build
from vitquant.report.draws_section import NONE, section

STUDY = handmade.study()
DELTA = STUDY.recipes["vitquant-int8"].top1_delta
assert DELTA
HALF = (DELTA.high - DELTA.low) / 2


def test_a_row_per_recipe_and_kind_and_the_greatest_of_each_kind() -> None:
    steady = Spread("vitquant-int8", "probe", [0.0, 0.0])
    varied = Spread("vitquant-int8", "calibration", [-HALF / 1.96, 0.0, HALF / 1.96])
    split = Spread("vitquant-int8", "split", [0.1, 0.2])
    text = section([varied, steady, split], STUDY)
    header, _, first, second, third = [line for line in text.splitlines() if line.startswith("|")]
    assert "standard deviation" in header
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    least, greatest = f"{-HALF / 1.96:+.2f}", f"{HALF / 1.96:+.2f}"
    assert cells[:7] == ["vitquant-int8", "calibration images", "3", "+0.00", f"{HALF / 1.96:.2f}", least, greatest]
    assert "| probe " in second
    assert "| split " in third
    assert "calibration images: at most 51 % (`vitquant-int8`, whose interval would be 41 % wider with it)" in text
    assert "probe: at most 0 % (`vitquant-int8`, whose interval would be 0 % wider with it)" in text
    assert "; split: at most" in text


def test_without_any_the_report_says_how_to_measure_them(params: Params, prepared: Prepared, tmp_path: Path) -> None:
    assert section([Spread("unknown", "probe", [0.0, 1.0])], STUDY) == NONE
    assert NONE in build.markdown(params, build.read(params, handmade.stages(prepared, tmp_path)), [])
