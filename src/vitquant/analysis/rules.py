"""The rules by which a claim of the seed report is judged: docs/method.md says why."""

from collections.abc import Callable
from dataclasses import dataclass

from vitquant.analysis.findings import Estimate, Findings
from vitquant.analysis.quantities import Measured, Quantity, is_seeds, less_time, quote
from vitquant.analysis.recommend import BUDGET, subject
from vitquant.analysis.studies import is_vit_b
from vitquant.params import SEED_RECIPE

REPRODUCED, EXCEEDED, MISSED = "reproduced", "exceeded", "not reproduced"
INCONCLUSIVE, IMPOSSIBLE, UNMEASURED = "inconclusive", "cannot be as stated", "not measured here"
VERDICTS = (REPRODUCED, EXCEEDED, MISSED, INCONCLUSIVE, IMPOSSIBLE, UNMEASURED)

EXACT = 1.0  # percentage points that a change without an interval may be off
NEAR_PCT = 5.0  # percent that an amount without an interval may be off
WIDEST_CHANGE = 10.0  # percentage points, of an interval that confirms a relative change
WIDEST_DIFFERENCE = 1.0  # pp, of an interval that confirms a difference in accuracy
WIDEST_ACCURACY = 5.0  # percentage points, of an interval that confirms an accuracy
STEADY_PCT = 5.0  # percent
FEWEST_CLASSES = 25  # of which a top-5 says something
VIT_B = "`vitquant experiment studies/vit-b-speed.yaml --publish`"
REPRO_FULL = "`make repro-full`"

Verdict = tuple[str, str]
"""One of VERDICTS, and why."""


@dataclass(frozen=True)
class Claim:
    """What the seed report says. Texts are plain, with code in backticks."""

    what: str
    value: float | str
    unit: str
    quantity: Quantity
    """What is measured of it here."""
    recipe: str
    """Of which recipe."""
    rule: "Rule"
    of_the_model: bool = False
    """Whether any ViT-B can tell, whatever its weights and data."""

    @property
    def number(self) -> float:
        """The value of a claim that is a number."""
        assert isinstance(self.value, float)
        return self.value


Rule = Callable[[Claim, Measured | None, Findings], Verdict]


def judge(claimed: float, measured: Estimate | float | str, widest: float, less_is_better: bool) -> Verdict:
    """The verdict on a number that both measured, and why.

    Exceeded: the whole interval is better than the claim. Not reproduced: it is all worse. Where it holds the claim:
    reproduced, or inconclusive where it is wider than `widest` and so could hold nearly anything. Without an interval,
    a value within EXACT of the claim reproduces it.
    """
    sign = -1 if less_is_better else 1
    if isinstance(measured, Estimate):
        low, high = sorted(sign * bound for bound in measured.interval)
        if low > sign * claimed:
            return EXCEEDED, "the whole interval is better than the claim"
        if high < sign * claimed:
            return MISSED, "the whole interval is worse than the claim"
        width = high - low
        if width <= widest:
            return REPRODUCED, "the claim lies within the interval"
        return INCONCLUSIVE, f"the interval holds the claim, but at a width of {width:.1f} points it cannot confirm it"
    value = float(measured)
    if abs(value - claimed) <= EXACT:
        return REPRODUCED, f"within {EXACT:g} percentage point of the claim"
    return (EXCEEDED, "better than claimed") if sign * (value - claimed) > 0 else (MISSED, "less than claimed")


def impossible(reason: str) -> Rule:
    """Other facts exclude it."""
    return lambda claim, measured, findings: (IMPOSSIBLE, reason)


def fact(same: str, other: str) -> Rule:
    """It is the same here, or it is not."""

    def rule(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
        return (REPRODUCED, same) if measured and measured.value == claim.value else (UNMEASURED, other)

    return rule


def of_vit_b(rule: Rule) -> Rule:
    """By the rule, where a ViT-B was measured; a model of another size cannot tell."""

    def judged(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
        if is_vit_b(findings.study):
            return rule(claim, measured, findings)
        return UNMEASURED, f"a model of another size was measured here: {VIT_B} measures a ViT-B"

    return judged


def amount(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """MB without an interval, less is better: within NEAR_PCT of the claim it is reproduced."""
    if measured is None:
        return UNMEASURED, f"`{SEED_RECIPE}` was not measured"
    off = 100 * (float(str(measured.value)) / claim.number - 1)
    verdict = REPRODUCED if abs(off) <= NEAR_PCT else EXCEEDED if off < 0 else MISSED
    return verdict, f"{off:+.0f} % off the claim; what was counted is not stated there"


def on_t4(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """An absolute time holds for its own hardware."""
    if measured and measured.study and isinstance(measured.value, Estimate):
        return judge(claim.number, measured.value, claim.number * WIDEST_CHANGE / 100, less_is_better=True)
    return UNMEASURED, "an absolute time holds for its own hardware: `dvc repro benchmark_cuda` on a T4 measures it"


def no_cuda_kernel(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """`quantize_dynamic` has none; where a GPU was measured, PyTorch says so."""
    said = [quote(f"on {gpu.device} PyTorch says: {gpu.quantize_dynamic}") for gpu in findings.gpus]
    known = "`quantized::linear_dynamic` has CPU backends only (x86, onednn, fbgemm, qnnpack), no CUDA kernel"
    return IMPOSSIBLE, "; ".join(said) or known


def change(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """A relative change, in percent, less is better; and what the recipe that the answer is about reaches."""
    if measured is None:
        return UNMEASURED, f"`{SEED_RECIPE}` was not measured"
    verdict, reason = judge(claim.number, measured.value, WIDEST_CHANGE, less_is_better=True)
    best = subject(findings.study)
    reached = claim.quantity(findings, best) if best and best != SEED_RECIPE else None
    if best and reached:
        value = reached.value.value if isinstance(reached.value, Estimate) else reached.value
        reason += f"; `{quote(best)}` reaches {value:+.1f} %"
    return verdict, reason


def time_change(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """As `change`, and what the number hangs on: the machine, and what it is compared with."""
    verdict, reason = change(claim, measured, findings)
    first, seed = findings.study.sizes[0], findings.study.recipes.get(SEED_RECIPE)
    rival = seed.at(first).best_float if seed and first in seed.speeds else None
    if rival:
        less = less_time(rival.ratio)
        span = f"{less.value:+.1f} [{less.low:+.1f}, {less.high:+.1f}] %"
        reason += f"; not portable: it is this machine's, and against `{quote(rival.recipe)}` it is {span}"
    return verdict, reason


def accuracy(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """An accuracy belongs to its model and data: only the seed report's own study can confirm it."""
    if measured and measured.study and is_seeds(measured.study):
        return judge(claim.number, measured.value, WIDEST_ACCURACY, less_is_better=False)
    return UNMEASURED, f"an accuracy belongs to its model and data: DINOv2 ViT-B on Tiny ImageNet ({REPRO_FULL})"


def difference(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """In accuracy, of any study; a top-5 needs more classes than a few."""
    if measured is None or measured.study is None:
        return UNMEASURED, _why_no_accuracy(claim, findings)
    classes = measured.study.facts.classes
    if claim.what.startswith("top-5") and classes < FEWEST_CLASSES:
        return UNMEASURED, (
            f"the top 5 of {classes} classes hold the truth nearly always, quantized or not; of 200 it says something: "
            f"{REPRO_FULL}"
        )
    return judge(claim.number, measured.value, WIDEST_DIFFERENCE, less_is_better=False)


def _why_no_accuracy(claim: Claim, findings: Findings) -> str:
    seed = findings.study.recipes.get(SEED_RECIPE)
    reasons = seed.unavailable if seed else {}
    top5 = reasons.get("top5") if claim.what.startswith("top-5") else None
    return quote(top5 or reasons.get("accuracy") or "") or f"the study has no accuracy of {SEED_RECIPE}"


def within_budget(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """The whole interval is within the bound."""
    if measured is None or not isinstance(measured.value, Estimate):
        return UNMEASURED, f"the study has no accuracy of `{SEED_RECIPE}`"
    low, high = measured.value.interval
    if low >= -BUDGET:
        return REPRODUCED, "the whole interval is within that bound"
    if high < -BUDGET:
        return MISSED, "the whole interval is beyond that bound"
    return INCONCLUSIVE, f"the interval reaches {low:+.2f} pp: a loss beyond the bound is not excluded"


def steady(claim: Claim, measured: Measured | None, findings: Findings) -> Verdict:
    """The spread from launch to launch is small."""
    if measured is None:
        return UNMEASURED, f"`{SEED_RECIPE}` was not timed"
    kept = isinstance(measured.value, float) and measured.value <= STEADY_PCT
    return REPRODUCED if kept else MISSED, (
        f"{'at most' if kept else 'more than'} {STEADY_PCT:g} %; no number was claimed"
    )
