"""Numbers and names as text: formatted, and escaped for Markdown."""

import re
from collections.abc import Sequence

from vitquant.analysis.findings import Estimate, Range, Study
from vitquant.errors import printable

MISSING = "–"


def shown(value: Estimate | float | None, form: str, spread: Range | None = None) -> str:
    """A value in the format `form`, an estimate with its interval in brackets; a dash where there is none.

    Args:
        spread: the least and the greatest of several, whose median the value is.
    """
    if value is None:
        return MISSING
    if spread and not isinstance(value, Estimate):
        return f"{number(value, form)} ({number(spread[0], form)} to {number(spread[1], form)})"
    if isinstance(value, Estimate):
        return f"{number(value.value, form)} {interval(value, form)}"
    return number(value, form)


def number(value: float, form: str) -> str:
    """Formatted; what is rounded to nothing has no minus."""
    text = format(value, form)
    return text if text.strip("-0.") else text.replace("-", "+" if "+" in form else "")


def interval(estimate: Estimate, form: str) -> str:
    """An estimate's interval as it is printed everywhere."""
    return f"[{number(estimate.low, form)}, {number(estimate.high, form)}]"


def top1(study: Study) -> str:
    """What a study calls its top-1: of embeddings it is that of their nearest neighbours."""
    return "k-NN top-1" if study.facts.embedding else "top-1"


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
    line = _escape_characters(" ".join(printable(text).split()))
    return re.sub(r"^([0-9]*)([-+.)])(?=[ -]|$)", r"\1\\\2", line)  # what begins a list, or is a rule


def _escape_characters(line: str) -> str:
    line = re.sub(r"([\\`*\[\]<>|~$&#])", r"\\\1", line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)


def code(name: object) -> str:
    """A name in code type; one with characters that code type cannot show everywhere is escaped instead."""
    return f"`{name}`" if re.fullmatch(r"[\w.+=/@:-]+", str(name)) else escape(name)


def inline(text: str) -> str:
    """Plain text as Markdown, on one line; what stands in backticks becomes code."""
    first, *parts = " ".join(printable(text).split()).split("`")
    if len(parts) % 2:  # a backtick alone is text
        return escape(text)
    return (
        escape(first)
        + " " * first.endswith(" ")
        + "".join(_escape_characters(part) if index % 2 else _code(part) for index, part in enumerate(parts))
    )


def _code(words: str) -> str:
    """Code type for words with spaces between."""
    return f"`{words}`" if all(code(word).startswith("`") for word in words.split(" ")) else _escape_characters(words)
