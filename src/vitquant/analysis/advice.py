"""What the seed report advises for production, as claims: held against what was measured of server and drift."""

from vitquant.analysis import drift
from vitquant.analysis import serving as analysis
from vitquant.analysis.findings import Estimate
from vitquant.analysis.quantities import Measured, quote
from vitquant.analysis.rules import INCONCLUSIVE, MISSED, REPRODUCED, UNMEASURED, Claim, Verdict
from vitquant.analysis.verdicts import faster_or_slower
from vitquant.results.drift import Drifts
from vitquant.results.serving import OK, REFUSED, Serving

SERVES_AGAIN = 5.0  # seconds after a worker's end, at most
UNKNOWN = "the server was not measured with these artifacts on this machine: `make loadtest` does"

NO_DRIFT = "what drift of the images does was not measured of this study: `make drift` does"


def claims(found: Serving | None, drifts: Drifts | None) -> tuple[Claim, Claim, Claim]:
    """Batches, recalibration, and what becomes of failures."""
    subject = found.subject if found else ""
    batches, handled = (_batches(found), _handled(found)) if found else (None, None)
    on_batches, on_failures = batching(batches), handling(found) if found else (UNMEASURED, UNKNOWN)
    calibrated, on_calibration = _calibrated(drifts), recalibrating(drifts)
    return (
        Claim("batching for throughput", "maximizes it", "", lambda *_: batches, subject, lambda *_: on_batches),
        Claim("regular recalibration", "recommended", "", lambda *_: calibrated, "", lambda *_: on_calibration),
        Claim("error handling and fallback", "recommended", "", lambda *_: handled, subject, lambda *_: on_failures),
    )


def batching(measured: Measured | None) -> Verdict:
    """Reproduced where the whole interval of the ratio of throughputs is above 1, not where it is all below."""
    if measured is None or not isinstance(measured.value, Estimate):
        return UNMEASURED, UNKNOWN
    return {
        "faster": (REPRODUCED, "batches raise the throughput: the whole interval is above 1"),
        "slower": (MISSED, "batches lower the throughput: the whole interval is below 1"),
    }.get(faster_or_slower(measured.value), (INCONCLUSIVE, "no difference is shown: the interval holds 1"))


def recalibrating(found: Drifts | None) -> Verdict:
    """Reproduced where a recipe is shown to win accuracy back, not where none wins `drift.MARGIN` in the mean."""
    gains = drift.gains(drift.again(found)) if found else []
    if not found or not gains:
        return UNMEASURED, NO_DRIFT
    reason = "; ".join(map(str, gains))
    if found.uncalibrated:
        fixed = ", ".join(f"`{quote(name)}`" for name in found.uncalibrated)
        reason += f"; nothing to recalibrate in {fixed}"
    if any(gain.won for gain in gains):
        return REPRODUCED, reason
    return (MISSED if all(gain.overall.high < drift.MARGIN for gain in gains) else INCONCLUSIVE), reason


def handling(found: Serving) -> Verdict:
    """Reproduced where no request is lost or answered twice, and the server soon serves again."""
    lost, twice = analysis.unaccounted(found)
    slowest = max(found.kills.again_s)
    if lost or twice:
        return MISSED, f"{lost} requests were lost, {twice} answered twice"
    if slowest > SERVES_AGAIN:
        return MISSED, f"it took up to {slowest:.1f} s until one was answered again"
    own = max(found.kills.own_s)
    return REPRODUCED, (
        f"none was lost or answered twice; one was answered again after at most {slowest:.2f} s, by "
        f"`{quote(found.subject)}` itself, as without a fallback, after {own:.2f} s"
    )


def _batches(found: Serving) -> Measured | None:
    ratios = analysis.batching(found)
    own = ratios.pop(found.subject, None)
    others = "".join(
        f"; `{quote(name)}` {each.value:.2f} [{each.low:.2f}, {each.high:.2f}]" for name, each in ratios.items()
    )
    where = f"`{quote(found.subject)}` over HTTP, saturated: batch limit {analysis.LIMIT} over 1{others}"
    return Measured(own, "× the throughput", ".2f", where) if own else None


def _handled(found: Serving) -> Measured:
    kills = found.kills
    by = ", ".join(f"{count:,} by `{quote(name)}`" for name, count in kills.recipes.items())
    return Measured(
        f"the worker killed {len(kills.again_s)} times under load: of {sum(kills.outcomes.values()):,} requests "
        f"{kills.outcomes.get(OK, 0):,} answered ({by}), {kills.outcomes.get(REFUSED, 0):,} refused with 503"
    )


def _calibrated(found: Drifts | None) -> Measured | None:
    if not found or not found.recalibrated:
        return None
    kinds = len({each.kind for each in found.recalibrated})
    return Measured(
        f"top-1 with calibration images that drifted alike, over {len(found.labels)} images, under the strongest of "
        f"{kinds} kinds of drift"
    )
