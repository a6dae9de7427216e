"""Two commits' results side by side, as Markdown for a pull request: what changed, and what exceeds its interval."""

import json
import math
import subprocess
from typing import Any

from vitquant.errors import VitquantError
from vitquant.report.consistency import MACHINE
from vitquant.report.metrics import checked
from vitquant.report.tables import batch_sizes, table
from vitquant.report.text import MISSING, escape

METRICS = "results/metrics.json"
Estimate = tuple[float, float, float]


def at(revision: str) -> dict[str, Any]:
    """metrics.json as it was committed in `revision`.

    Raises:
        VitquantError: there is no such commit, or it has no such file, or none of a study.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").stdout.strip()
    if not commit:
        raise VitquantError(f"{revision}: git knows no such commit here: name another, such as HEAD~1")
    result = _git("show", f"{commit}:{METRICS}")
    if result.returncode:
        said = (result.stderr.strip().splitlines() or ["no message"])[0]
        raise VitquantError(f"{revision}: {METRICS} cannot be read from that commit: {said}")
    name = f"{revision}: {METRICS} of that commit"
    try:
        content = json.loads(result.stdout)
    except ValueError as error:
        raise VitquantError(f"{name} is not valid JSON ({error}): name another commit") from None
    return checked(content, name, "name another commit")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def compare(before: dict[str, Any], after: dict[str, Any], names: tuple[str, str]) -> str:
    """The comparison as Markdown.

    Args:
        names: what to call the two.
    """
    parts = [f"## {escape(names[0])} → {escape(names[1])}", *_warnings(before, after)]
    rows, gone = [], []
    for name in [*before["recipes"], *(name for name in after["recipes"] if name not in before["recipes"])]:
        if name not in before["recipes"] or name not in after["recipes"]:
            gone.append(f"- {escape(name)}: only in {escape(names[name in after['recipes']])}")
            continue
        rows += _rows(name, before["recipes"][name], after["recipes"][name], batch_sizes(after))
    exceeding = [row for row in rows if row["exceeds its interval"].startswith("yes")]
    changed = [row for row in rows if row["change"] != MISSING]
    parts.append(
        f"{len(exceeding)} of {len(rows)} values differ by more than their interval, {len(changed)} differ at all. "
        "Brackets: 95 % interval of the change, from the two intervals as if independent (Zou & Donner 2008)."
    )
    parts.append(table(changed, text_columns=2) if changed else "No value differs.")
    if gone:
        parts.append("\n".join(gone))
    return "\n\n".join(parts) + "\n"


def _warnings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What makes the two hard to compare."""
    warnings = []
    for key, value in before["study"].items():
        if after["study"].get(key) != value:
            warnings.append(
                f"**Another study**: {escape(key)} was {escape(value)}, is {escape(after['study'].get(key, MISSING))}."
            )
    old, new = before["environment"], after["environment"]
    for key in (*MACHINE, "threads"):
        if old.get(key) != new.get(key):
            warnings.append(
                f"**Another machine**: {key} was {escape(old.get(key, MISSING))}, is {escape(new.get(key, MISSING))}; "
                "only ratios to fp32 are comparable."
            )
    return warnings


def _rows(name: str, before: dict[str, Any], after: dict[str, Any], sizes: list[int]) -> list[dict[str, str]]:
    """One row per value that both have."""
    first, last = sizes[0], sizes[-1]
    keys = [("top-1, %", "top1_pct", "top1_ci95_pct")] if name == "fp32" else []
    keys += [("Δ top-1, pp", "top1_delta_pp", "top1_delta_ci95_pp")]
    keys += [(f"speed-up b{size}, ×", f"speedup_b{size}_x", f"speedup_b{size}_ci95_x") for size in {first, last}]
    keys += [("peak memory, MB", "memory_peak_mb", ""), ("size, MB", "size_mb", "")]
    return [
        _row(name, label, before, after, key, interval)
        for label, key, interval in sorted(keys, key=lambda item: item[0])
        if key in before and key in after
    ]


def _row(
    name: str, label: str, before: dict[str, Any], after: dict[str, Any], key: str, interval: str
) -> dict[str, str]:
    old, new = before[key], after[key]
    row = {"recipe": escape(name), "value": label, "before": f"{old:g}", "after": f"{new:g}", "change": MISSING}
    if old == new:
        return row | {"exceeds its interval": "no"}
    if not interval:
        exact = label.startswith("size")
        return row | {"change": f"{new - old:+.4g}", "exceeds its interval": "yes: exact" if exact else "no interval"}
    first, second = (old, *before[interval]), (new, *after[interval])
    ratio = key.startswith("speedup")
    low, high = _ratio(first, second) if ratio else _difference(first, second)
    change = f"× {new / old:.2f} [{low:.2f}, {high:.2f}]" if ratio else f"{new - old:+.2f} [{low:+.2f}, {high:+.2f}]"
    nothing = 1.0 if ratio else 0.0
    return row | {"change": change, "exceeds its interval": "no" if low <= nothing <= high else "yes"}


def _difference(before: Estimate, after: Estimate) -> tuple[float, float]:
    """The interval of after - before, from theirs: MOVER (Zou & Donner 2008, equation 2)."""
    value = after[0] - before[0]
    below = math.hypot(after[0] - after[1], before[2] - before[0])
    above = math.hypot(after[2] - after[0], before[0] - before[1])
    return value - below, value + above


def _ratio(before: Estimate, after: Estimate) -> tuple[float, float]:
    """The interval of after / before: the same on logarithms."""
    first, second = (tuple(math.log(number) for number in estimate) for estimate in (before, after))
    low, high = _difference(first, second)  # type: ignore[arg-type]  # three each
    return math.exp(low), math.exp(high)
