"""metrics.json of version 1, whose flat keys carry batch size and unit, as findings: to compare with older commits."""

import json
import re
from typing import Any

from pydantic import ValidationError

from vitquant.analysis.columns import interval_key
from vitquant.analysis.findings import Study
from vitquant.errors import VitquantError
from vitquant.validation import describe

BATCHES = re.compile("latency_b([0-9]{1,9})_ms_p50")
UNITS = {"pct": "%", "pp": "pp", "x": "×", "ms": "ms"}
ACCURACY = {"top1": "top1_pct", "top5": "top5_pct", "top1_delta": "top1_delta_pp", "top5_delta": "top5_delta_pp"}
SPEED = {"p50_ms": "ms_p50", "p90_ms": "ms_p90", "p99_ms": "ms_p99"}
FOOTPRINT = ("memory_model_mb", "memory_peak_mb", "size_mb", "size_reduction_pct")


def convert(content: Any, name: str, mend: str) -> Study:
    """What metrics.json of version 1 holds, but for the ratios to compiled BF16.

    Args:
        content: the parsed JSON.
        name: what messages call the file.
        mend: what they say to do.

    Raises:
        VitquantError: it is of an earlier version, or no metrics.json at all, or a value is of another kind.
    """
    try:
        recipes = {recipe: _recipe(flat) for recipe, flat in content["recipes"].items()}
        study = {"facts": content["study"], "environment": content["environment"], "recipes": recipes}
    except (KeyError, TypeError, AttributeError):
        raise VitquantError(f"{name} is not of a study: {mend}") from None
    if not all("traits" in recipe for recipe in recipes.values()):
        raise VitquantError(f"{name} is older than version 1 of the format, its recipes have no traits: {mend}")
    try:
        return Study.model_validate_json(json.dumps(study))
    except ValidationError as error:
        raise VitquantError(f"{name}: {describe(error, study)}: {mend}") from None


def _recipe(flat: dict[str, Any]) -> dict[str, Any]:
    """A recipe's findings, by the names of their fields."""
    recipe: dict[str, Any] = {key: flat[key] for key in ("traits", "unavailable") if key in flat}
    if "top1_pct" in flat:
        measured = {field: _estimate(flat, key) for field, key in ACCURACY.items()}
        plain = {field: flat.get(field) for field in ("mcnemar_p", "agreement_pct")}
        recipe["accuracy"] = {"device": flat.get("accuracy_device", "cpu"), **measured, **plain}
    sizes = [int(found[1]) for key in flat if (found := BATCHES.fullmatch(key))]
    recipe["speeds"] = {str(size): _speed(flat, size) for size in sizes}
    if "size_mb" in flat:
        recipe["footprint"] = {key: flat[key] for key in FOOTPRINT if key in flat}
    return recipe


def _speed(flat: dict[str, Any], size: int) -> dict[str, Any]:
    return {
        **{field: flat.get(f"latency_b{size}_{key}") for field, key in SPEED.items()},
        "images_per_s": flat.get(f"throughput_b{size}_img_s"),
        "mean": _estimate(flat, f"latency_b{size}_mean_ms"),
        "speedup": _estimate(flat, f"speedup_b{size}_x"),
    }


def _estimate(flat: dict[str, Any], key: str) -> dict[str, Any] | None:
    """The value at a key with its interval, or None where there is no such key."""
    if key not in flat:
        return None
    interval = flat.get(interval_key(key))
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)  # noqa: PLR2004
    return {"value": flat[key], "low": low, "high": high, "unit": UNITS[key.rpartition("_")[2]]}
