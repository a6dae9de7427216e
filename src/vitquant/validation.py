"""What pydantic found wrong, in one line."""

from typing import Any

from pydantic import ValidationError

from vitquant.urls import shown

SHOWN = 5  # problems in one line


def describe(error: ValidationError, content: Any) -> str:
    """A pydantic error over `content` as one line: `key: what is wrong (got value)`, joined by semicolons."""
    problems: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for item in error.errors():
        place = _place(item["loc"], content, item["type"] == "missing")
        message = {"extra_forbidden": "unknown key", "missing": "missing"}.get(item["type"])
        problems.setdefault(place, []).append(message or item["msg"].removeprefix("Value error, ")[:300])
        if not message and not isinstance(item["input"], dict):
            got[place] = shown(f" (got {item['input']!r})")[:200]
    lines = [f"{place}: {', or '.join(messages)}{got.get(place, '')}" for place, messages in problems.items()]
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(line.removeprefix(": ") for line in lines[:SHOWN]) + more


def _place(location: tuple[int | str, ...], content: Any, missing: bool) -> str:
    """The key that a location means; pydantic's names for the branches of a union are left out."""
    keys = []
    for index, part in enumerate(location):
        is_item = isinstance(content, list) and isinstance(part, int) and part < len(content)
        if is_item or (isinstance(content, dict) and part in content):
            content = content[part]
            keys.append(str(part))
        elif missing and index == len(location) - 1:
            keys.append(str(part))
    return ".".join(keys)
