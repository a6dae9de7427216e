"""results/metrics.json: everything the stages measured, joined, with the paired statistics.

Keys carry their unit. MB are 10^6 bytes, pp are percentage points. `fp32` is the baseline of every
difference and ratio. What could not be measured is absent, and its reason stands under `unavailable`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant import files, traits, zips
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError, printable
from vitquant.measure.estimates import paired_accuracy, speed_and_size, study
from vitquant.params import BASELINE, Params
from vitquant.report.consistency import check_artifact, check_form, check_machines, check_predictions
from vitquant.report.tables import batch_sizes
from vitquant.report.text import interval_key


@dataclass(frozen=True)
class Inputs:
    """Where the stages before left their results."""

    data: Path
    accuracy: Path
    predictions: Path
    benchmark: Path
    profile: Path
    cuda: Path


def join(params: Params, inputs: Inputs, logits: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        logits: what `read_logits` gives.

    Raises:
        VitquantError: a result is missing or unreadable, results do not belong together, or the baseline itself
            could not be measured.
    """
    prepared = Prepared(inputs.data)
    labels = prepared.labels("val")
    benchmark = files.read_json(inputs.benchmark)
    if "unavailable" in benchmark["recipes"][BASELINE]:
        reason = benchmark["recipes"][BASELINE]["unavailable"]
        raise VitquantError(f"{BASELINE}, the baseline of every ratio, could not be benchmarked: {reason}")
    for timed in benchmark["recipes"].values():
        traits.of(timed, inputs.benchmark)
    environments = {inputs.benchmark: benchmark["environment"]}
    recipes: dict[str, Any] = {}
    for name in params.recipes:
        accuracy_file = inputs.accuracy / f"{name}.json"
        accuracy = files.read_json(accuracy_file)
        recipe, unavailable = {"traits": traits.of(accuracy, accuracy_file).model_dump(mode="json")}, {}
        speed = benchmark["recipes"].get(name, {"unavailable": "not in the benchmark"})
        environments[accuracy_file] = accuracy.get("environment", {})
        check_artifact(accuracy_file, accuracy, inputs.benchmark, speed)
        if "unavailable" in accuracy:
            unavailable["accuracy"] = accuracy["unavailable"]
        else:
            predictions_file = inputs.predictions / f"{name}.npz"
            check_predictions(accuracy_file, accuracy, predictions_file, logits[name], labels, len(prepared.classes))
            recipe.update({key: value for key, value in accuracy.items() if key.startswith("top")})
            recipe["accuracy_device"] = accuracy["device"]
            if len(prepared.classes) <= 5:  # noqa: PLR2004
                unavailable["top5"] = f"top-5 of {len(prepared.classes)} classes is always 100 %"
            if name != BASELINE and logits[BASELINE].size:
                recipe.update(paired_accuracy(logits[name], logits[BASELINE], labels, params.report))
        if "unavailable" in speed:
            unavailable["benchmark"] = speed["unavailable"]
        else:
            recipe.update(speed_and_size(name, benchmark["recipes"], params.report))
            if "slow" in speed:
                unavailable["all but the first batches"] = speed["slow"]
        recipes[name] = {**recipe, **({"unavailable": unavailable} if unavailable else {})}
    check_machines(environments)
    return {
        "study": study(params, prepared),
        "environment": benchmark["environment"],
        "recipes": recipes,
    }


def read(path: Path) -> dict[str, Any]:
    """The content of metrics.json.

    Raises:
        VitquantError: missing, unreadable, or not of a study.
    """
    return checked(files.read_json(path), str(path), "make it again with `dvc repro`")


def checked(content: Any, name: str, mend: str) -> dict[str, Any]:
    """`content`, if it is metrics.json's.

    Args:
        name: what the message calls it.
        mend: what the message says to do.

    Raises:
        VitquantError: it is not of a study, or has a value of another kind.
    """
    try:
        _ = content["recipes"][BASELINE].keys(), content["study"]["eval_images"], content["environment"]
    except (KeyError, TypeError, AttributeError):
        raise VitquantError(f"{name} is not of a study: {mend}") from None
    try:
        check_form(content)
    except VitquantError as error:
        raise VitquantError(f"{name}: {error}: {mend}") from None
    if not batch_sizes({"recipes": {BASELINE: content["recipes"][BASELINE]}}):
        raise VitquantError(f"{name}: recipes.{BASELINE} was not timed: {mend}")
    return dict(content)


@contextmanager
def damage(name: str) -> Iterator[None]:
    """One line for what results lack, or hold that cannot be, such as a difference without its interval.

    Args:
        name: of the results that are used inside.

    Raises:
        VitquantError: there is such a thing.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        said = printable(error)[:100]
        raise VitquantError(
            f"{name}: a value is missing or impossible ({said}): make it again with `dvc repro`"
        ) from None


def summary(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    """results/summary.json, what `dvc metrics diff` shows: per recipe top-1, speed-up and size, rounded."""
    first = min(batch_sizes(metrics))
    keys = {"top1_pct": 2, f"speedup_b{first}_x": 1, "size_mb": 1}
    return {
        name: {key: round(recipe[key], digits) for key, digits in keys.items() if key in recipe}
        for name, recipe in metrics["recipes"].items()
    }


def plots(metrics: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """results/plots/<name>.json, what `dvc plots` draws: a value and its interval per recipe that has them."""
    keys = {"accuracy": "top1_delta_pp", "speedup": f"speedup_b{min(batch_sizes(metrics))}_x"}
    return {
        plot: [
            {
                "recipe": name,
                "value": recipe[key],
                "low": recipe[interval_key(key)][0],
                "high": recipe[interval_key(key)][1],
            }
            for name, recipe in metrics["recipes"].items()
            if key in recipe
        ]
        for plot, key in keys.items()
    }


def read_logits(params: Params, folder: Path) -> dict[str, NDArray[np.float32]]:
    """The predictions of every recipe over the validation split, (N, C); (0, 0) where there are none.

    Raises:
        VitquantError: a file is missing or unreadable.
    """
    return {name: _read_logits(folder / f"{name}.npz") for name in params.recipes}


def _read_logits(path: Path) -> NDArray[np.float32]:
    try:
        with np.load(path) as content:
            zips.check(content.zip.getinfo("logits.npy"), path.stat().st_size)  # it is stored, not compressed
            return np.asarray(content["logits"], dtype=np.float32)
    except Exception as error:  # NumPy, zipfile and Python's parser, which reads the header, raise any
        raise VitquantError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}): run `dvc repro`") from None
