"""The report's section on GPUs: every device, any number of studies on each."""

from collections.abc import Mapping

from vitquant.analysis.columns import ratio_to
from vitquant.analysis.findings import Findings, Recipe, Study
from vitquant.analysis.race import Winner, race
from vitquant.analysis.verdicts import Pace, faster_or_slower, loss_or_gain
from vitquant.report import prose
from vitquant.report.tables import cell, table, unavailable
from vitquant.report.text import code, escape, listing, shown

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
PACES: tuple[Pace, ...] = ("faster", "not distinguishable in speed", "slower")  # in the order they are told


def section(findings: Findings) -> str:
    """The Markdown of all devices and studies."""
    parts = [
        part for gpu in findings.gpus for name, study in gpu.studies.items() for part in _study(gpu.device, name, study)
    ]
    return "\n\n".join(parts) or NONE


def _study(device: str, name: str, study: Study) -> list[str]:
    facts, environment = study.facts, study.environment
    told = {key: _told(getattr(environment, key)) for key in ENVIRONMENT} | {
        "git_commit": escape(environment.git_commit[:COMMIT])
    }
    where = ", ".join(form.format(told[key]) for key, form in ENVIRONMENT.items() if told[key])
    parts = [
        f"### {escape(device)}: {escape(name)}",
        f"{code(facts.model)} on {escape(facts.data)}, {facts.eval_images:,} images, "
        f"{facts.classes} classes; measured {escape(study.date or 'on an unknown day')}: {where}.",
        _verdict(study),
        _speeds(study),
        " ".join(filter(None, (prose.energy(study), _copies(study)))),
        _memory(study),
    ]
    if missing := unavailable(study):
        parts.append(missing)
    if study.profile:
        parts.append(f"Milliseconds per image by kind of kernel:\n\n{_profile(study.profile)}")
    return [part for part in parts if part]


def _version(study: Study) -> str:
    return f"PyTorch {escape(study.environment.torch)}"


def _copies(study: Study) -> str:
    """What latency leaves out: how long the inputs' way to the GPU is."""
    if not study.copy_ms:
        return ""
    told = listing([f"{milliseconds:.3g} ms at batch {size}" for size, milliseconds in sorted(study.copy_ms.items())])
    return f"Inputs are on the GPU already: copying them there from pinned memory takes {told}, which is not counted."


def _told(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f"{value[0]} to {value[1]}"
    return escape((", ".join(map(str, value)) or "none seen") if isinstance(value, list) else value)


def answer(findings: Findings) -> str:
    """Whether 8 bits beat 16 on each device, a sentence each, for the study of this name or else the device's first."""
    sentences = []
    for gpu in findings.gpus:
        study = gpu.studies.get(findings.study.facts.name) or next(iter(gpu.studies.values()), None)
        winners = race(study) if study else {}
        if study and winners:
            paces = {size: faster_or_slower(winner.rival.ratio) for size, winner in winners.items()}
            told = [
                f"{pace} at batch {listing([str(size) for size, seen in paces.items() if seen == pace])}"
                for pace in PACES
                if pace in paces.values()
            ]
            rivals = list(dict.fromkeys(code(winner.rival.recipe) for winner in winners.values()))
            sentences.append(
                f"On an {escape(gpu.device)} with {_version(study)}, {code(study.facts.model)}'s best 8-bit recipe is, "
                f"against the best floating-point one ({listing(rivals)}), {listing(told)}."
            )
    return " ".join(sentences)


def _speeds(study: Study) -> str:
    sizes = study.sizes
    rows = []
    for name, recipe in study.recipes.items():
        accuracy = recipe.accuracy
        row = {
            "recipe": escape(name),
            "top-1 %": cell(accuracy, lambda accuracy: accuracy.top1.value, ".2f"),
            "Δ top-1, pp": shown(recipe.top1_delta, "+.2f"),
            "agreement %": cell(accuracy, lambda accuracy: accuracy.agreement_pct, ".2f"),
            "embedding, mean cosine": cell(accuracy, lambda accuracy: accuracy.class_token_mean_cosine, ".4f"),
        }
        for size in dict.fromkeys((sizes[0], sizes[-1])) if sizes else ():
            speed = recipe.speeds.get(size)
            row[f"b{size} ms"] = cell(speed, lambda speed: speed.p50_ms, ".2f")
            row[f"× fp32, b{size}"] = shown(recipe.speedup(size), ".2f")
        if sizes:
            speed, last = recipe.speeds.get(sizes[-1]), sizes[-1]
            row[f"× best other float, b{last}"] = shown(ratio_to(speed.best_float) if speed else None, ".2f")
            row[f"images/s, b{last}"] = cell(speed, lambda speed: speed.images_per_s, ",.0f")
            row[f"mJ per image, b{last}"] = cell(speed, lambda speed: speed.energy_mj, ".1f")
        rows.append(row)
    return table(rows)


def _memory(study: Study) -> str:
    rows = []
    for name, recipe in study.recipes.items():
        footprint = recipe.footprint
        rows.append(
            {
                "recipe": escape(name),
                "PyTorch's allocations at their peak, MB": cell(
                    footprint, lambda footprint: footprint.memory_peak_mb, ",.0f"
                ),
                "the process on the GPU, MB": cell(footprint, lambda footprint: footprint.memory_process_mb, ",.0f"),
                "size, MB": cell(footprint, lambda footprint: footprint.size_mb, ".1f"),
            }
        )
    return table(rows)


def _profile(profile: Mapping[str, Mapping[str, float]]) -> str:
    kinds = list(dict.fromkeys(kind for times in profile.values() for kind in times))
    return table(
        {
            "recipe": escape(name),
            **{escape(kind): shown(times.get(kind), ".3f") for kind in kinds},
            "sum": f"{sum(times.values()):.3f}",
        }
        for name, times in profile.items()
    )


def _verdict(study: Study) -> str:
    """Whether 8 bits beat floating point, batch size by batch size, as sentences."""
    winners = race(study)
    if not winners:
        return "8 bits cannot be compared with floating point: one of the two was not timed."
    lines = [
        f"{_line(study.recipes[winner.name], winner, size)} Measured with {_version(study)}."
        for size, winner in winners.items()
    ]
    return "Does the best 8-bit recipe beat the best one that does not quantize?\n\n" + "\n".join(lines)


def _line(recipe: Recipe, winner: Winner, size: int) -> str:
    ratio = winner.rival.ratio
    pace, cost = faster_or_slower(ratio), ""
    if recipe.top1_delta:
        cost = f", with {shown(recipe.top1_delta, '+.2f')} pp of top-1 ({loss_or_gain(recipe.top1_delta)})"
    answer = {"faster": "yes", "slower": "no"}.get(pace, "not shown")
    return (
        f"- Batch {size}: {answer}. {code(winner.name)} is {pace}: {shown(ratio, '.2f')} × the speed of "
        f"{code(winner.rival.recipe)}{cost}."
    )
