"""How far top-1 moves with what is drawn."""

from pathlib import Path

import handmade
import pytest
from handmade import DIGEST

from vitquant.analysis import draws, load
from vitquant.analysis.draws import Spread
from vitquant.analysis.findings import Estimate
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.params import Params
from vitquant.results import form, predictions
from vitquant.results.draws import Draws, Row, inputs
from vitquant.results.facts import facts


def row(seed: int, gained: int, lost: int, digest: str = DIGEST, recipe: str = "dynamic-int8") -> Row:
    """Of 24 images FP32 has 20."""
    return Row(
        kind="probe", seed=seed, recipe=recipe, images=24, hits=20 + gained - lost, fp32_hits=20, gained=gained,
        lost=lost, inputs=digest, commit="0" * 40,
    )  # fmt: skip


def test_mean_and_standard_deviation_over_the_draws() -> None:
    (spread,) = draws.spreads([row(0, 0, 0), row(1, 2, 0), row(2, 1, 5), row(0, 0, 0, recipe="once")])
    assert (spread.recipe, spread.kind) == ("dynamic-int8", "probe")
    assert spread.deltas == pytest.approx([0, 100 / 12, -100 / 6])
    assert spread.mean == pytest.approx(-100 / 36)
    assert spread.sd == pytest.approx(100 * (((1 / 36) ** 2 + (4 / 36) ** 2 + (5 / 36) ** 2) / 2) ** 0.5)


def test_the_draw_widens_an_interval_as_an_independent_error() -> None:
    interval = Estimate(value=0, low=-1.96 * 3, high=1.96 * 3, unit="pp")
    assert Spread("r", "probe", [-4.0, 0.0, 4.0]).widening(interval) == pytest.approx(100 * (5 / 3 - 1))
    assert Spread("r", "probe", [1.0, 1.0]).widening(interval) == 0


def test_the_recipes_are_the_answers_the_seeds_and_their_fastest_rivals() -> None:
    study = handmade.study()
    assert draws.subjects(study) == ["vitquant-int8", "dynamic-int8", "openvino-int8-static"]
    within = study.recipes["static-int8"].accuracy.model_copy(
        update={"top1_delta": Estimate(value=-0.2, low=-1, high=0.6, unit="pp")}
    )
    study.recipes["static-int8"] = study.recipes["static-int8"].model_copy(update={"accuracy": within})
    assert draws.subjects(study) == ["vitquant-int8", "dynamic-int8", "openvino-int8-static", "static-int8"]


def test_only_draws_of_this_study_and_of_its_own_recipes_are_read(
    params: Params, prepared: Prepared, tmp_path: Path
) -> None:
    found = handmade.stages(prepared, tmp_path)
    results = load.load(params, found)
    assert draws.read(found.draws, params, results) == []
    fp32, int8 = (predictions.digest(results.evidence[name].logits) for name in ("fp32", "dynamic-int8"))
    own = inputs(params, "dynamic-int8", int8, fp32)
    other = params.model_copy(update={"calibration": params.calibration.model_copy(update={"images": 11})})
    stale = inputs(other, "dynamic-int8", int8, fp32)
    rows = [row(0, 0, 2, own), row(1, 1, 2, own), row(2, 4, 0, stale)]
    form.write(found.draws / "draws.json", Draws(study=facts(params, prepared), rows=rows))
    (spread,) = draws.read(found.draws, params, results)
    assert spread.deltas == pytest.approx([-100 / 12, -100 / 24])
    form.write(found.draws / "draws.json", Draws(study=handmade.FACTS, rows=rows))
    assert draws.read(found.draws, params, results) == []


def test_rows_that_cannot_be_are_refused(params: Params, prepared: Prepared, tmp_path: Path) -> None:
    found = handmade.stages(prepared, tmp_path)
    file = found.draws / "draws.json"
    form.write(file, Draws(study=facts(params, prepared), rows=[row(0, 1, 0)]))
    file.write_text(file.read_text().replace('"gained": 1', '"gained": 3'))
    with pytest.raises(VitquantError, match="do not go together.*make draws"):
        draws.read(found.draws, params, load.load(params, found))
