"""The audit's rule, and that it follows the numbers."""

import handmade
import numpy as np
import pytest
from handmade import ENVIRONMENT, SEEDS

from vitquant.analysis import claims, rules
from vitquant.analysis.claims import Audited
from vitquant.analysis.findings import Device, Estimate, Findings, Study
from vitquant.analysis.rules import EXCEEDED, IMPOSSIBLE, INCONCLUSIVE, MISSED, REPRODUCED, UNMEASURED

SEED = "dynamic-int8"


@pytest.fixture
def findings() -> Findings:
    return handmade.findings()


def audit(findings: Findings) -> dict[str, Audited]:
    return {audited.claim.what: audited for audited in claims.audit(findings)}


def of(study: Study) -> Findings:
    return Findings(study=study)


def with_facts(study: Study, **facts: object) -> Study:
    return study.model_copy(update={"facts": study.facts.model_copy(update=facts)})


def with_top1(study: Study, name: str, value: float, low: float, high: float) -> Study:
    own = study.recipes[name]
    assert own.accuracy
    top1 = Estimate(value=value, low=low, high=high, unit="%")
    return handmade.with_recipe(
        study, name, own.model_copy(update={"accuracy": own.accuracy.model_copy(update={"top1": top1})})
    )


def verdict(findings: Findings, claim: str) -> tuple[str, str]:
    audited = audit(findings)[claim]
    return audited.verdict, audited.reason


def number(audited: Audited) -> float:
    """What was measured."""
    assert audited.measured
    value = audited.measured.value
    assert not isinstance(value, str)
    return value.value if isinstance(value, Estimate) else value


@pytest.mark.parametrize(
    ("claimed", "measured", "interval", "less_is_better", "verdict"),
    [
        (-36.6, -52.0, [-55.0, -49.0], True, EXCEEDED),
        (-36.6, -30.0, [-35.0, -25.0], True, MISSED),
        (-36.6, -35.0, [-38.0, -32.0], True, REPRODUCED),
        (-36.6, -35.0, [-45.0, -25.0], True, INCONCLUSIVE),  # too wide to confirm it
        (-0.28, 0.1, [-0.1, 0.3], False, EXCEEDED),
        (-0.28, -1.0, [-1.4, -0.6], False, MISSED),
        (-74.4, -73.6, None, True, REPRODUCED),
        (-74.4, -80.0, None, True, EXCEEDED),
        (-63.2, -28.0, None, True, MISSED),
    ],
)
def test_the_rule(
    claimed: float, measured: float, interval: list[float] | None, less_is_better: bool, verdict: str
) -> None:
    value = Estimate(value=measured, low=interval[0], high=interval[1], unit="%") if interval else measured
    assert rules.judge(claimed, value, 10.0, less_is_better)[0] == verdict


def test_every_claim_has_its_row(findings: Findings) -> None:
    audited = claims.audit(findings)
    text = " ".join(f"{each.claim.value} {each.claim.unit}" for each in audited)
    for number in (
        "45.3", "28.7", "36.6", "342", "126", "63.2", "86.4", "22.1", "74.4", "81.24", "80.96", "0.28",
        "95.67", "95.42", "0.25", "0.3", "224", "16", "768", "12", "T4", "low",
    ):  # fmt: skip
        assert number in text, number
    assert all(each.reason and "\n" not in each.reason for each in audited)
    assert sum(claims.counts(audited).values()) == len(audited) == len(audit(findings))
    assert set(claims.counts(audited)) <= set(rules.VERDICTS)


def test_what_cannot_be(findings: Findings) -> None:
    found = audit(findings)
    impossible = {name for name, audited in found.items() if audited.verdict == IMPOSSIBLE}
    assert impossible == {
        "architecture", "data", "method", "where it ran", "average inference, INT8", "memory, FP32", "model size, FP32",
        "model size, INT8",
    }  # fmt: skip
    assert "patches of 14 only" in found["architecture"].reason
    assert "number of parameters in millions" in found["model size, FP32"].reason
    assert "FP32 weights" in found["memory, FP32"].reason
    assert "has CPU backends only" in found["where it ran"].reason


def test_what_was_measured_stands_beside_the_claim(findings: Findings) -> None:
    found = audit(findings)
    assert number(found["average inference, FP32"]) == 80.0
    assert number(found["inference time, change"]) == pytest.approx(100 * (1 / 2.4 - 1))
    assert number(found["memory, change"]) == pytest.approx(100 * (86.0 / 123.0 - 1))
    assert number(found["model size, change"]) == pytest.approx(100 * (22.9 / 86.6 - 1))
    assert (number(found["top-1, FP32"]), number(found["top-1, difference"])) == (76.0, -1.7)
    change = found["inference time, change"].measured
    assert change
    assert isinstance(change.value, Estimate)
    assert change.value.interval == pytest.approx((100 * (1 / 2.448 - 1), 100 * (1 / 2.352 - 1)))
    assert change.where == "`dynamic-int8` against eager `fp32`, CPU, batch 1"


def test_a_change_is_judged_and_the_answers_recipe_stands_beside_it(findings: Findings) -> None:
    assert verdict(findings, "inference time, change") == (
        EXCEEDED,
        "the whole interval is better than the claim; `vitquant-int8` reaches -73.0 %; not portable: it is this "
        "machine's, and against `bf16-compiled` it is -16.7 [-18.3, -15.0] %",
    )
    assert verdict(findings, "memory, change")[0] == UNMEASURED
    assert verdict(findings, "model size, change")[0] == REPRODUCED
    slow = handmade.with_speedup(findings.study, SEED, 1.0, 0.9, 1.1)
    assert verdict(of(slow), "inference time, change")[0] == MISSED


def test_an_interval_that_holds_the_claim_and_much_else_confirms_nothing(findings: Findings) -> None:
    wide = of(handmade.with_delta(findings.study, SEED, -1.7, -3.4, 0.0))
    result, reason = verdict(wide, "top-1, difference")
    assert (result, "cannot confirm" in reason) == (INCONCLUSIVE, True)
    assert verdict(wide, "accuracy kept") == (
        INCONCLUSIVE,
        "the interval reaches -3.40 pp: a loss beyond the bound is not excluded",
    )
    assert verdict(findings, "accuracy kept") == (MISSED, "the whole interval is beyond that bound")
    narrow = of(handmade.with_delta(findings.study, SEED, -0.2, -0.29, -0.1))
    assert verdict(narrow, "top-1, difference")[0] == REPRODUCED
    assert verdict(narrow, "accuracy kept")[0] == REPRODUCED


def test_an_accuracy_on_other_data_is_not_compared(findings: Findings) -> None:
    assert verdict(findings, "top-1, FP32")[0] == UNMEASURED
    seeds = with_facts(findings.study, model=SEEDS.model, data=SEEDS.data, classes=200)
    seeds = with_top1(seeds, "fp32", 81.0, 79.5, 82.5)
    assert verdict(of(seeds), "top-1, FP32")[0] == REPRODUCED
    assert verdict(of(seeds), "hidden width")[0] == REPRODUCED
    assert verdict(findings, "hidden width")[0] == UNMEASURED
    assert verdict(of(with_facts(seeds, data="elpv")), "top-1, FP32")[0] == UNMEASURED


def test_the_seeds_own_study_on_a_gpu_comes_before_another_one_on_the_cpu(findings: Findings) -> None:
    seeds = with_top1(with_facts(findings.study, **dict(SEEDS)), "fp32", 81.0, 79.5, 82.5)
    seeds = seeds.model_copy(
        update={"environment": ENVIRONMENT.model_copy(update={"gpu": "NVIDIA T4", "cuda": "11.8"})}
    )
    device = Device(device="NVIDIA T4", quantize_dynamic="no `kernel`", studies={"seeds": seeds})
    both = findings.model_copy(update={"gpus": [device]})
    assert verdict(both, "top-1, FP32")[0] == REPRODUCED
    measured = audit(both)["top-1, FP32"].measured
    assert measured
    assert measured.where == "`vit_base_patch14_dinov2` on tiny-imagenet, 2,000 images, NVIDIA T4"
    assert verdict(both, "where it ran") == (IMPOSSIBLE, "on NVIDIA T4 PyTorch says: no ˋkernelˋ")
    assert verdict(both, "average inference, FP32") == (MISSED, "the whole interval is worse than the claim")  # 80 ms
    assert verdict(findings, "average inference, FP32")[0] == UNMEASURED


def test_a_top5_of_few_classes_says_nothing(findings: Findings) -> None:
    result, reason = verdict(findings, "top-5, difference")
    assert (result, reason.startswith("the top 5 of 8 classes hold the truth nearly always")) == (UNMEASURED, True)
    many = of(with_facts(findings.study, classes=25))
    assert verdict(many, "top-5, difference")[0] == EXCEEDED  # 0.0 [-0.1, 0.1]
    own = findings.study.recipes[SEED]
    assert own.accuracy
    without = own.accuracy.model_copy(update={"top5": None, "top5_delta": None})
    reason = "top-5 of 2 classes is always 100 %"
    seed = own.model_copy(update={"accuracy": without, "unavailable": {"top5": reason}})
    two = of(handmade.with_recipe(findings.study, SEED, seed))
    assert verdict(two, "top-5, difference") == (UNMEASURED, reason)


@pytest.mark.parametrize(("cv", "expected"), [(5.0, REPRODUCED), (5.1, MISSED)])
def test_low_variance_is_a_coefficient_of_five_percent(findings: Findings, cv: float, expected: str) -> None:
    own = findings.study.recipes[SEED]
    speeds = {size: speed.model_copy(update={"spread_pct": cv}) for size, speed in own.speeds.items()}
    study = handmade.with_recipe(findings.study, SEED, own.model_copy(update={"speeds": speeds}))
    assert verdict(of(study), "variance over runs")[0] == expected


@pytest.mark.parametrize(
    ("crop", "expected"), [(224, REPRODUCED), (518, UNMEASURED), (None, UNMEASURED)]
)  # None in findings of version 1
def test_the_input_size(findings: Findings, crop: int | None, expected: str) -> None:
    assert verdict(of(with_facts(findings.study, crop=crop)), "input")[0] == expected


def vit_b(study: Study) -> Study:
    """A study of the seed's model without accuracy, which takes four times as much of everything."""
    for name, own in study.recipes.items():
        footprint = own.footprint
        assert footprint
        larger = {"size_mb": 4 * footprint.size_mb, "memory_peak_mb": 4 * footprint.memory_peak_mb}
        kept = {"accuracy": None, "footprint": footprint.model_copy(update=larger)}
        study = handmade.with_recipe(study, name, own.model_copy(update=kept))
    return with_facts(study, name="vit-b-speed", model=SEEDS.model)


def test_what_any_vit_b_can_tell_is_judged_by_one_beside_the_study(findings: Findings) -> None:
    others = {"small": with_facts(findings.study, name="small"), "vit-b-speed": vit_b(findings.study)}
    found = {each.claim.what: each for each in claims.audit(findings, others)}
    advice = {"batching for throughput", "regular recalibration", "error handling and fallback"}
    unmeasured = {what for what, each in found.items() if each.verdict == UNMEASURED} - advice
    assert unmeasured == {
        "average inference, FP32", "top-1, FP32", "top-1, INT8", "top-5, FP32", "top-5, INT8", "top-5, difference"
    }  # fmt: skip
    assert all("`make repro-full`" in found[what].reason for what in unmeasured - {"average inference, FP32"})
    assert "`dvc repro benchmark_cuda`" in found["average inference, FP32"].reason
    assert {found[what].verdict for what in ("hidden width", "attention heads", "layers")} == {REPRODUCED}
    assert number(found["memory, INT8"]) == 4 * 86.0
    assert found["memory, INT8"].verdict == MISSED
    assert found["memory, change"].verdict == MISSED
    measured = found["model size, FP32"].measured
    assert measured
    assert measured.where == "`vit_base_patch14_dinov2`, `vit-b-speed`"
    assert number(found["top-1, difference"]) == -1.7  # of the study itself


@pytest.mark.parametrize(("peak", "expected"), [(132.0, REPRODUCED), (133.0, MISSED), (119.0, EXCEEDED)])
def test_an_amount_is_reproduced_within_five_percent(findings: Findings, peak: float, expected: str) -> None:
    own = findings.study.recipes[SEED]
    assert own.footprint
    seed = own.model_copy(update={"footprint": own.footprint.model_copy(update={"memory_peak_mb": peak})})
    study = handmade.with_recipe(with_facts(findings.study, model=SEEDS.model), SEED, seed)
    assert verdict(of(study), "memory, INT8")[0] == expected


def test_what_it_ran_on_stands_beside_ours(findings: Findings) -> None:
    rows = {what: (theirs, ours and ours.value) for what, theirs, ours in claims.setup(findings)}
    assert rows["PyTorch"] == ("2.0.1", ENVIRONMENT.torch)
    assert rows["CUDA"] == ("11.8", None)
    assert rows["CPU"] == ("Intel Xeon, 8 cores", "2 cores, Abacus")


def test_without_the_seeds_recipe(findings: Findings) -> None:
    study = handmade.with_recipe(findings.study, SEED, None)
    for claim in (
        "inference time, change",
        "memory, change",
        "top-1, difference",
        "accuracy kept",
        "variance over runs",
    ):
        audited = audit(of(study))[claim]
        assert (audited.verdict, audited.measured) == (UNMEASURED, None)


def test_where_the_seeds_recipe_could_not_be_measured_it_is_said_why(findings: Findings) -> None:
    reason = "no `kernel`\non this CPU"
    seed = findings.study.recipes[SEED].model_copy(
        update={"accuracy": None, "speeds": {}, "footprint": None, "unavailable": {"accuracy": reason}}
    )
    found = audit(of(handmade.with_recipe(findings.study, SEED, seed)))
    assert found["top-1, difference"].reason == reason.replace("`", "ˋ")  # no code begins in it
    for claim in ("inference time, change", "memory, change", "model size, change", "variance over runs"):
        assert found[claim].verdict == UNMEASURED


def test_all_verdicts_of_a_study_without_speed_or_accuracy_can_be_made(findings: Findings) -> None:
    """Only the baseline must be timed."""
    study = findings.study
    for name, own in study.recipes.items():
        kept = {"accuracy": None, "unavailable": {"accuracy": "no head"}}
        if name != "fp32":
            kept |= {"speeds": {}, "footprint": None}
        study = handmade.with_recipe(study, name, own.model_copy(update=kept))
    audited = claims.audit(of(study))
    assert len(audited) == len(claims.CLAIMS) + 3
    assert np.unique([each.verdict for each in audited]).tolist() == sorted([IMPOSSIBLE, REPRODUCED, UNMEASURED])
