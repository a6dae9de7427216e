"""results/cuda/<device>.json: what was measured on one GPU, a study beside the other.

Recipes have the keys of metrics.json. Running a study again replaces that study on that device, and nothing else.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant import files
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.measure import accuracy, estimates
from vitquant.measure.estimates import MB
from vitquant.params import BASELINE, Params


def device_file(folder: Path, gpu: str) -> Path:
    """Where the results of a GPU stand: `NVIDIA H200` in nvidia-h200.json."""
    return folder / f"{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"


def add(path: Path, study: str, result: dict[str, Any], quantize_dynamic: str) -> None:
    """Write a study's result into the device's file; other studies there stay as they are."""
    content = files.read_json(path) if path.exists() else {"studies": {}}
    studies = {**content["studies"], study: result}
    device = result["environment"]["gpu"]
    files.write_json(path, {"device": device, "quantize_dynamic": quantize_dynamic, "studies": studies})


def join(
    params: Params, measured: dict[str, Any], logits: dict[str, NDArray[np.float32]], prepared: Prepared
) -> dict[str, Any]:
    """One study on one GPU: what `cuda_benchmark.run` gave, with the statistics of metrics.json.

    Raises:
        VitquantError: the baseline could not be measured.
    """
    labels, results = prepared.labels("val"), measured["recipes"]
    if "unavailable" in results[BASELINE]:
        raise VitquantError(
            f"{BASELINE}, the baseline of every ratio, could not be measured: {results[BASELINE]['unavailable']}: "
            "earlier results stay as they are"
        )
    recipes: dict[str, Any] = {}
    for name, own in results.items():
        recipe: dict[str, Any] = {"traits": own["traits"]}
        if "unavailable" in own:
            recipes[name] = {**recipe, "unavailable": {"benchmark": own["unavailable"]}}
            continue
        unavailable = {f"batch {size}": reason for size, reason in own.get("unavailable_batches", {}).items()}
        if "unavailable_accuracy" in own:
            unavailable["accuracy"] = own["unavailable_accuracy"]
        else:
            summary = accuracy.summarize(logits[name], labels)
            recipe |= {key: value for key, value in summary.items() if key.startswith("top")}
            if name != BASELINE and BASELINE in logits:
                recipe |= estimates.paired_accuracy(logits[name], logits[BASELINE], labels, params.report)
        recipe |= estimates.speed_and_size(name, results, params.report)
        recipe["memory_allocator_peak_mb"] = recipe.pop("memory_peak_mb")
        if "process_memory_bytes" in own:
            recipe["memory_process_mb"] = round(own["process_memory_bytes"] / MB, 1)
        else:
            unavailable["memory_process"] = "NVML shows no memory by process here"
        for size, energy in own.get("energy_mj", {}).items():
            recipe[f"energy_b{size}_mj_img"] = round(energy, 3)
        recipes[name] = {**recipe, **({"unavailable": unavailable} if unavailable else {})}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "study": estimates.study(params, prepared),
        "environment": measured["environment"],
        "recipes": recipes,
        "profile": measured["profile"],
    }
