"""findings.json of version 2, of one launch, as of this version: to compare with older commits."""

from collections.abc import Iterator
from typing import Any


def convert(content: dict[str, Any]) -> dict[str, Any]:
    """The parsed JSON, changed in place where it is as version 2 had it; all else is for the reader to refuse."""
    for study in _studies(content):
        if isinstance(study.get("conditions"), dict):
            study["conditions"] = [study["conditions"]]
        for recipe in _values(study.get("recipes")):
            for speed in _values(recipe.get("speeds")):
                speed.pop("cv_pct", None)
    return content | {"version": 3}


def _studies(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from _values({"study": content.get("study")})
    gpus = content.get("gpus")
    for gpu in gpus if isinstance(gpus, list) else []:
        yield from _values(gpu.get("studies") if isinstance(gpu, dict) else None)


def _values(content: Any) -> Iterator[dict[str, Any]]:
    """The mappings in a mapping."""
    if isinstance(content, dict):
        yield from (value for value in content.values() if isinstance(value, dict))
