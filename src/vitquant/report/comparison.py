"""Two runs side by side, as Markdown for a pull request."""

from vitquant.analysis.compare import Change, Comparison
from vitquant.report.tables import Row, table
from vitquant.report.text import MISSING, escape


def markdown(comparison: Comparison, names: tuple[str, str]) -> str:
    """The comparison.

    Args:
        names: what to call the two.
    """
    changes = comparison.changes
    exceeding = [change for change in changes if change.beyond.startswith("yes")]
    changed = [_row(change) for change in changes if change.before != change.after]
    parts = [
        f"## {escape(names[0])} → {escape(names[1])}",
        *_warnings(comparison),
        f"{len(exceeding)} of {len(changes)} values differ by more than their interval, {len(changed)} differ at all. "
        "Brackets: 95 % interval of the change, from the two intervals as if independent (Zou & Donner 2008).",
        table(changed, text_columns=2) if changed else "No value differs.",
    ]
    gone = [f"- {escape(name)}: only in {escape(names[0])}" for name in comparison.only_before]
    gone += [f"- {escape(name)}: only in {escape(names[1])}" for name in comparison.only_after]
    if gone:
        parts.append("\n".join(gone))
    return "\n\n".join(parts) + "\n"


def _warnings(comparison: Comparison) -> list[str]:
    """What makes the two hard to compare."""
    warnings = [
        f"**Another study**: {escape(key)} was {escape(before)}, is {escape(after)}."
        for key, (before, after) in comparison.other_study.items()
    ]
    if comparison.other_method:
        warnings.append(
            "**Another method**: one of the two was timed in one launch: its intervals do not hold what varies from "
            "launch to launch, and memory, the allocator and the way to run a batch may be others."
        )
    return warnings + [
        f"**Another machine**: {key} was {escape(before)}, is {escape(after)}; only ratios to fp32 are comparable."
        for key, (before, after) in comparison.other_machine.items()
    ]


def _row(change: Change) -> Row:
    text = MISSING
    if change.interval:
        low, high = change.interval
        text = (
            f"× {change.change:.2f} [{low:.2f}, {high:.2f}]"
            if change.is_ratio
            else f"{change.change:+.2f} [{low:+.2f}, {high:+.2f}]"
        )
    else:
        text = f"{change.change:+.4g}"
    return {
        "recipe": escape(change.recipe),
        "value": change.what,
        "before": f"{change.before:g}",
        "after": f"{change.after:g}",
        "change": text,
        "exceeds its interval": change.beyond,
    }
