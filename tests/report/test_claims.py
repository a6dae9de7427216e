"""The audit's rule, and that it follows the numbers."""

import handmade
import pytest

from vitquant.report import claims
from vitquant.report.claims import EXCEEDED, IMPOSSIBLE, MISSED, REPRODUCED, UNMEASURED


@pytest.fixture
def metrics() -> dict:
    return handmade.metrics()


def audit(metrics: dict) -> dict[str, claims.Finding]:
    return {finding.claim: finding for finding in claims.audit(metrics, {}, 224)}


@pytest.mark.parametrize(
    ("claimed", "measured", "interval", "less_is_better", "verdict"),
    [
        (-36.6, -52.0, [-55.0, -49.0], True, EXCEEDED),
        (-36.6, -30.0, [-35.0, -25.0], True, MISSED),
        (-36.6, -35.0, [-38.0, -32.0], True, REPRODUCED),
        (-36.6, -35.0, [-45.0, -25.0], True, MISSED),  # too wide to confirm it
        (-0.28, 0.1, [-0.1, 0.3], False, EXCEEDED),
        (-0.28, -1.0, [-1.4, -0.6], False, MISSED),
        (-74.4, -73.6, None, True, REPRODUCED),
        (-74.4, -80.0, None, True, EXCEEDED),
        (-63.2, -28.0, None, True, MISSED),
    ],
)
def test_the_rule(claimed: float, measured: float, interval, less_is_better: bool, verdict: str) -> None:
    assert claims.judge(claimed, measured, interval, 10.0, less_is_better)[0] == verdict


def test_every_claim_has_its_row(metrics: dict) -> None:
    findings = claims.audit(metrics, {}, 224)
    text = " ".join(finding.claimed for finding in findings)
    for number in (
        "45.3", "28.7", "36.6", "342", "126", "63.2", "86.4", "22.1", "74.4", "81.24", "80.96", "0.28",
        "95.67", "95.42", "0.25", "0.3", "224", "16", "768", "12", "2.0.1", "0.15.2", "3.8+", "11.8", "T4",
        "32 GB", "8 cores", "low",
    ):  # fmt: skip
        assert number in text, number
    assert all(finding.reason and "\n" not in finding.reason for finding in findings)


def test_what_cannot_be(metrics: dict) -> None:
    findings = audit(metrics)
    impossible = {name for name, finding in findings.items() if finding.verdict == IMPOSSIBLE}
    assert {"architecture", "where it ran", "model size, FP32", "memory, FP32", "method", "data"} <= impossible
    assert "patches of 14 only" in findings["architecture"].reason
    assert "number of parameters in millions" in findings["model size, FP32"].reason
    assert "FP32 weights" in findings["memory, FP32"].reason


def test_an_interval_that_holds_the_claim_and_much_else_confirms_nothing(metrics: dict) -> None:
    metrics["recipes"]["dynamic-int8"] |= {"top1_delta_pp": -1.7, "top1_delta_ci95_pp": [-3.4, 0.0]}
    finding = audit(metrics)["top-1, difference"]
    assert (finding.verdict, "cannot confirm" in finding.reason) == (MISSED, True)
    metrics["recipes"]["dynamic-int8"] |= {"top1_delta_pp": -0.2, "top1_delta_ci95_pp": [-0.29, -0.1]}
    findings = audit(metrics)
    assert findings["top-1, difference"].verdict == REPRODUCED
    assert findings["accuracy kept"].verdict == REPRODUCED


def test_an_accuracy_on_other_data_is_not_compared(metrics: dict) -> None:
    assert audit(metrics)["top-1, FP32"].verdict == UNMEASURED
    metrics["study"] |= {"model": "vit_base_patch14_dinov2", "data": "tiny-imagenet", "classes": 200}
    metrics["recipes"]["fp32"] |= {"top1_pct": 81.0, "top1_ci95_pct": [79.5, 82.5]}
    findings = audit(metrics)
    assert findings["top-1, FP32"].verdict == REPRODUCED
    assert findings["hidden width"].verdict == REPRODUCED


def test_without_the_seeds_recipe(metrics: dict) -> None:
    del metrics["recipes"]["dynamic-int8"]
    findings = audit(metrics)
    assert findings["inference time, change"].verdict == UNMEASURED
    assert findings["top-1, difference"].verdict == UNMEASURED
