"""The findings as flat keys: metrics.json, of which summary.json is a part, plots/*.json, and results.csv."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from vitquant.analysis.columns import ACCURACY, FOOTPRINT, SPEED, Column, interval_key
from vitquant.analysis.findings import Estimate, Findings, Recipe, Study
from vitquant.errors import printable

CPU = "cpu"


def metrics(study: Study) -> dict[str, Any]:
    """The content of metrics.json: keys carry their unit, and intervals a key of their own beside."""
    facts = study.facts.model_dump(exclude={"crop"}, exclude_none=True)
    environment = study.environment.model_dump(mode="json", exclude_none=True)
    recipes = {name: _metrics(recipe) for name, recipe in study.recipes.items()}
    return {"study": facts, "environment": environment, "recipes": recipes}


def _metrics(recipe: Recipe) -> dict[str, Any]:
    flat: dict[str, Any] = {"traits": recipe.traits.model_dump(mode="json")}
    if recipe.accuracy:
        flat["accuracy_device"] = recipe.accuracy.device
        flat |= _keys(recipe.accuracy, ACCURACY)
    for size, speed in recipe.speeds.items():
        flat |= {key.format(b=f"b{size}"): value for key, value in _keys(speed, SPEED).items()}
    if recipe.footprint:
        flat |= _keys(recipe.footprint, FOOTPRINT)
    return flat | ({"unavailable": recipe.unavailable} if recipe.unavailable else {})


def _keys(part: Any, section: tuple[Column[Any], ...]) -> dict[str, Any]:
    """A part's values, and the intervals of those that have one."""
    flat: dict[str, Any] = {}
    for column in section:
        found = column.of(part)
        if isinstance(found, Estimate):
            flat |= {column.key: found.value, interval_key(column.key): [found.low, found.high]}
        elif found is not None:
            flat[column.key] = found
        if spread := column.spread(part):
            head, _, unit = column.key.rpartition("_")
            flat[f"{head}_range_{unit}"] = list(spread)
    return flat


def summary(study: Study) -> dict[str, dict[str, float]]:
    """The content of summary.json, what `dvc metrics diff` shows: per recipe top-1, speed-up and size, rounded.

    Of embeddings also the 1st percentile of their cosine to FP32's.
    """
    digits = {"top1_pct": 2, f"speedup_b{study.sizes[0]}_x": 1, "size_mb": 1}
    if study.facts.embedding:
        digits = {"class_token_p1_cosine": 4, **digits}
    flat = metrics(study)["recipes"]
    return {
        name: {key: round(recipe[key], digits[key]) for key in digits if key in recipe} for name, recipe in flat.items()
    }


def plots(study: Study) -> dict[str, list[dict[str, Any]]]:
    """plots/<name>.json, what `dvc plots` draws: a value and its interval per recipe that has them."""
    first = study.sizes[0]
    found = {
        "accuracy": {name: recipe.top1_delta for name, recipe in study.recipes.items()},
        "speedup": {name: recipe.speedup(first) for name, recipe in study.recipes.items()},
    }
    return {
        plot: [
            {"recipe": name, "value": estimate.value, "low": estimate.low, "high": estimate.high}
            for name, estimate in estimates.items()
            if estimate
        ]
        for plot, estimates in found.items()
    }


def table(findings: Findings) -> str:
    """The content of results.csv: a row per device, study, recipe and batch size, with the unit in a column's name.

    Names are on one line each: a carriage return by itself would end a row.
    """
    rows = [*_rows(CPU, findings.study)]
    for gpu in findings.gpus:
        rows += [row for study in gpu.studies.values() for row in _rows(gpu.device, study)]
    header = list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))  # in sections
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(device: str, study: Study) -> Iterator[dict[str, Any]]:
    cpu = study.environment.cpu
    for name, recipe in study.recipes.items():
        traits = recipe.traits
        fixed = {
            "device": printable(device),
            "host_cpu": printable(cpu),
            "git_commit": printable(study.environment.git_commit),
            "study": printable(study.facts.name),
            "model": printable(study.facts.model),
            "images": study.facts.eval_images,
            "recipe": printable(name),
            "weight_bits": traits.weight_bits,
            "activation_bits": traits.activation_bits,
            "arithmetic": traits.arithmetic,
            "execution": traits.execution,
        }
        accuracy = _cells(recipe.accuracy, ACCURACY) if recipe.accuracy else {}
        footprint = _cells(recipe.footprint, FOOTPRINT) if recipe.footprint else {}
        for size in recipe.speeds or [None]:
            speed = _cells(recipe.at(size), SPEED) if size else {}
            yield {**fixed, "batch": size, **_names(recipe, size), **speed, **accuracy, **footprint}


def _names(recipe: Recipe, size: int | None) -> dict[str, str]:
    """Of a batch size: how it is run on several cores, and whom the ratios are taken to."""
    speed = recipe.speeds.get(size or 0)
    rivals = {"fastest_other": speed and speed.fastest_other, "best_float": speed and speed.best_float}
    way = {"way": speed.way if speed and speed.way else ""}
    return way | {name: printable(rival.recipe) if rival else "" for name, rival in rivals.items()}


def _cells(part: Any, section: tuple[Column[Any], ...]) -> dict[str, Any]:
    """A part's values under the columns' names; an interval's ends have columns of their own."""
    cells: dict[str, Any] = {}
    for column in section:
        key, found = column.key.replace("{b}_", ""), column.of(part)
        if isinstance(found, Estimate):
            head, _, unit = key.rpartition("_")
            cells |= {key: found.value, f"{head}_low_{unit}": found.low, f"{head}_high_{unit}": found.high}
        else:
            cells[key] = found
        if spread := column.spread(part):
            head, _, unit = key.rpartition("_")
            cells |= {f"{head}_least_{unit}": spread[0], f"{head}_greatest_{unit}": spread[1]}
    return cells
