"""The report's section on GPUs, from results/cuda: one JSON file per device, any number of studies in each."""

from pathlib import Path
from typing import Any

from vitquant import files, traits
from vitquant.errors import VitquantError
from vitquant.measure.estimates import HALVES, Half, half_reference
from vitquant.report.consistency import check_form
from vitquant.report.tables import batch_sizes, table, unavailable
from vitquant.report.text import (
    code,
    escape,
    estimate,
    faster_or_slower,
    interval_key,
    listing,
    loss_or_gain,
    value,
)

NONE = "No GPU was measured: `results/cuda` holds no device's file."
ENVIRONMENT = {  # what of it is told in a line
    "compute_capability": "compute capability {}",
    "driver": "driver {}",
    "cuda": "CUDA {}",
    "power_limit_w": "power limit {} W",
    "clock_sm_mhz": "SM clock {} MHz",
    "temperature_c": "{} °C",
    "throttling": "throttled by {}",
    "torch": "PyTorch {}",
    "git_commit": "commit {}",
}
COMMIT = 12  # digits of a commit that are told
UNDECIDED = "no interval"
EIGHT = 8  # bits
WORDS = {
    "faster": "faster",
    "not distinguishable in speed": "not distinguishable in speed",
    "slower": "slower",
    UNDECIDED: "fastest of the 8-bit ones, without an interval to decide",
}
Study = dict[str, Any]


def read(folder: Path) -> dict[str, Any]:
    """The content of every file in `folder` by its name; none where there is no folder.

    Raises:
        VitquantError: a file is not JSON, lacks a key, has a value of another kind, or two files are about the same
            device.
    """
    contents = {file.name: files.read_json(file) for file in sorted(folder.glob("*.json"))}
    seen: dict[str, str] = {}
    for name, content in contents.items():
        try:
            device = str(content["device"])
            for study in content["studies"].values():
                _ = study["study"]["eval_images"], study["environment"]
                check_form(study)
                for recipe in study["recipes"].values():
                    traits.of(recipe)
        except (KeyError, TypeError, AttributeError, VitquantError) as error:
            raise VitquantError(
                f"{folder / name} is not a CUDA benchmark ({error}): delete it and measure again"
            ) from None
        if device in seen:
            raise VitquantError(f"{folder / seen[device]} and {folder / name} are both of {device}: delete one of them")
        seen[device] = name
        for key, study in content["studies"].items():
            gpu = study["environment"].get("gpu", device)
            if gpu != device:
                raise VitquantError(
                    f"{folder / name} mixes machines: study {key} was measured on {gpu}, the file is of {device}"
                )
    return contents


def section(contents: dict[str, Any]) -> str:
    """The Markdown of all devices and studies."""
    parts = [
        part
        for content in contents.values()
        for name, study in content["studies"].items()
        for part in _study(str(content["device"]), str(name), study)
    ]
    return "\n\n".join(parts) or NONE


def _study(device: str, name: str, study: Study) -> list[str]:
    facts, environment = study["study"], study["environment"]
    environment = {**environment, "git_commit": str(environment.get("git_commit") or "")[:COMMIT]}
    where = ", ".join(form.format(_told(environment[key])) for key, form in ENVIRONMENT.items() if environment.get(key))
    parts = [
        f"### {escape(device)}: {escape(name)}",
        f"{code(facts['model'])} on {escape(facts['data'])}, {facts['eval_images']:,} images, "
        f"{facts['classes']} classes; measured {escape(study.get('date', 'on an unknown day'))}: {where}.",
        _verdict(study),
        _table(study),
    ]
    if missing := unavailable(study["recipes"]):
        parts.append(missing)
    if study.get("profile"):
        parts.append(f"Milliseconds per image by kind of kernel:\n\n{_profile(study['profile'])}")
    return parts


def answer(contents: dict[str, Any], name: str) -> str:
    """Whether 8 bits beat 16 on each device, a sentence each, for the study `name` or else the device's first."""
    sentences = []
    for content in contents.values():
        study = content["studies"].get(name) or next(iter(content["studies"].values()), None)
        found = _race(study) if study else None
        if study and found:
            reference, winners = found
            verdicts = {size: verdict for size, (_, verdict) in winners.items()}
            told = [
                f"{words} at batch {listing([str(size) for size, verdict in verdicts.items() if verdict == key])}"
                for key, words in WORDS.items()
                if key in verdicts.values()
            ]
            model = code(study["study"]["model"])
            sentences.append(
                f"On an {escape(content['device'])}, {model}'s best 8-bit recipe is, "
                f"against {code(reference.recipe)}, {listing(told)}."
            )
    return " ".join(sentences)


def _told(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(item, (int, float)) for item in value):  # noqa: PLR2004
        return f"{value[0]} to {value[1]}"
    return escape(", ".join(map(str, value)) if isinstance(value, list) else value)


def _table(study: Study) -> str:
    sizes = batch_sizes(study)
    rows = []
    for name, recipe in study["recipes"].items():
        row = {
            "recipe": escape(name),
            "top-1 %": value(recipe, "top1_pct", ".2f"),
            "Δ top-1, pp": estimate(recipe, "top1_delta_pp", "+.2f"),
            "agreement %": value(recipe, "agreement_pct", ".2f"),
        }
        for size in dict.fromkeys((sizes[0], sizes[-1])) if sizes else ():
            row[f"b{size} ms"] = value(recipe, f"latency_b{size}_ms_p50", ".2f")
            row[f"speed-up b{size} ×"] = estimate(recipe, f"speedup_b{size}_x", ".2f")
        if sizes:
            last = sizes[-1]
            for key in HALVES.values():
                row[f"× {key.replace('_', '-')}, b{last}"] = estimate(recipe, f"vs_{key}_b{last}_x", ".2f")
            row[f"images/s, b{last}"] = value(recipe, f"throughput_b{last}_img_s", ",.0f")
            row[f"mJ per image, b{last}"] = value(recipe, f"energy_b{last}_mj_img", ".1f")
        rows.append(row)
    memory = [
        {
            "recipe": escape(name),
            "PyTorch's allocator at its peak, MB": value(recipe, "memory_allocator_peak_mb", ",.0f"),
            "the process on the GPU, MB": value(recipe, "memory_process_mb", ",.0f"),
            "size, MB": value(recipe, "size_mb", ".1f"),
        }
        for name, recipe in study["recipes"].items()
    ]
    return f"{table(rows)}\n\n{table(memory)}" if rows else "No recipe was measured."


def _profile(profile: dict[str, dict[str, float]]) -> str:
    kinds = list(dict.fromkeys(kind for times in profile.values() for kind in times))
    return table(
        {
            "recipe": escape(name),
            **{escape(kind): value(times, kind, ".3f") for kind in kinds},
            "sum": f"{sum(times.values()):.3f}",
        }
        for name, times in profile.items()
    )


def _verdict(study: Study) -> str:
    """Whether 8 bits beat 16, batch size by batch size, as sentences."""
    found = _race(study)
    if found is None:
        return "8 bits cannot be compared with compiled 16-bit floating point: one of the two was not timed."
    reference, winners = found
    lines = [_line(study["recipes"][best], best, reference, size, verdict) for size, (best, verdict) in winners.items()]
    return f"Does the best 8-bit recipe beat {code(reference.recipe)}?\n\n" + "\n".join(lines)


def _race(study: Study) -> tuple[Half, dict[int, tuple[str, str]]] | None:
    """What 8 bits have to beat, and by batch size the fastest 8-bit recipe and its verdict, a key of WORDS."""
    recipes = study["recipes"]
    reference = half_reference(recipes)
    if reference is None:
        return None
    winners = {}
    for size in batch_sizes(study):
        key, time = f"vs_{reference.key}_b{size}_x", f"latency_b{size}_ms_p50"
        base = recipes[reference.recipe].get(time)
        ratios = {
            name: recipe.get(key) or base / recipe[time]
            for name, recipe in recipes.items()
            if traits.of(recipe).weight_bits == EIGHT and (key in recipe or (base and time in recipe))
        }
        if ratios:
            best = max(ratios, key=lambda name: ratios[name])
            interval = recipes[best].get(interval_key(key))
            winners[size] = best, faster_or_slower(*interval) if interval else UNDECIDED
    return (reference, winners) if winners else None


def _line(recipe: dict[str, Any], best: str, reference: Half, size: int, verdict: str) -> str:
    key = f"vs_{reference.key}_b{size}_x"
    ratio = f": {estimate(recipe, key, '.2f')} × the speed" if key in recipe else ""
    cost = ""
    if "top1_delta_pp" in recipe:
        shown = loss_or_gain(*recipe["top1_delta_ci95_pp"])
        cost = f", with {estimate(recipe, 'top1_delta_pp', '+.2f')} pp of top-1 ({shown})"
    answer = {"faster": "yes", "slower": "no"}.get(verdict, "not shown")
    return f"- Batch {size}: {answer}. {code(best)} is {WORDS[verdict]}{ratio}{cost}."
