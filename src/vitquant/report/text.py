"""Numbers and names as text: formatted, judged by their intervals, and escaped for Markdown."""

import re
from collections.abc import Sequence
from typing import Any

from vitquant.errors import printable

MISSING = "–"


def value(recipe: dict[str, Any], key: str, form: str) -> str:
    """`recipe[key]` in the format `form`, or a dash where it is absent."""
    return format(recipe[key], form) if key in recipe else MISSING


def estimate(recipe: dict[str, Any], key: str, form: str) -> str:
    """`recipe[key]` with its interval, which is at `interval_key(key)`, in brackets; or a dash."""
    if key not in recipe:
        return MISSING
    interval = recipe.get(interval_key(key))
    return format(recipe[key], form) + (f" {bracket(interval, form)}" if interval else "")


def interval_key(key: str) -> str:
    """The key of the interval of the value at `key`; the unit stays last."""
    head, _, unit = key.rpartition("_")
    return f"{head}_ci95_{unit}"


def bracket(interval: Sequence[float], form: str) -> str:
    """An interval as it is printed everywhere."""
    low, high = interval
    return f"[{low:{form}}, {high:{form}}]"


def loss_or_gain(low: float, high: float) -> str:
    """What the interval of a difference in accuracy shows; one that holds 0 shows nothing."""
    return "a loss" if high < 0 else "a gain" if low > 0 else "no difference shown"


def faster_or_slower(low: float, high: float) -> str:
    """What the interval of a speed-up shows; one that holds 1 shows nothing."""
    return "faster" if low > 1 else "slower" if high < 1 else "not distinguishable in speed"


def relative(percent: float) -> str:
    """A reduction in percent, in words."""
    if abs(percent) < 0.05:  # noqa: PLR2004  # what one decimal rounds to nothing
        return "as large"
    return f"{percent:.1f} % smaller" if percent > 0 else f"{-percent:.1f} % larger"


def listing(words: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def escape(text: object) -> str:
    """Text that is not ours as Markdown that shows it as it is, on one line, in a table too."""
    line = " ".join(printable(text).split())
    line = re.sub(r"([\\`*\[\]<>|~$&#])", r"\\\1", line)
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)
    return re.sub(r"^([0-9]*)([-+.)])(?=[ -]|$)", r"\1\\\2", line)  # what begins a list, or is a rule


def code(name: object) -> str:
    """A name in code type; one with characters that code type cannot show everywhere is escaped instead."""
    return f"`{name}`" if re.fullmatch(r"[\w.+=/@:-]+", str(name)) else escape(name)
