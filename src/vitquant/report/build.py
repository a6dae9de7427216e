"""The report: metrics.json, figures, and report.md from template.md."""

from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from vitquant import files
from vitquant.params import Params
from vitquant.report import figures, metrics, tables

STYLE = "github"


def report(params: Params, inputs: metrics.Inputs, metrics_file: Path, out: Path, figures_folder: Path) -> None:
    """Join the results in `inputs` and write metrics.json, the figures and the Markdown report."""
    joined = metrics.join(params, inputs)
    figures.draw(joined, files.read_json(inputs.benchmark), figures_folder)
    files.write_json(metrics_file, joined)
    template = Template(resources.files("vitquant.report").joinpath("template.md").read_text("utf-8"))
    with files.atomic(out) as partial:
        partial.write_text(template.substitute(_values(params, joined)), "utf-8")


def _values(params: Params, joined: dict[str, Any]) -> dict[str, Any]:
    missing = tables.unavailable(joined)
    return {
        **{key: joined["study"][key] for key in ("model", "data", "eval_images", "classes")},
        "study": params.study,
        "cpu": joined["environment"]["cpu"],
        "threads": joined["environment"]["threads"],
        "git_commit": joined["environment"].get("git_commit", "unknown"),
        "accuracy_device": _accuracy_device(joined),
        "answer": "\n".join(_answer(name, recipe) for name, recipe in joined["recipes"].items() if name != "fp32"),
        "summary_table": tables.summary(joined, STYLE),
        "unavailable": f"Not measured:\n\n{missing}\n" if missing else "",
        "accuracy_table": tables.accuracy(joined, STYLE),
        "latency_table": tables.latency(joined, STYLE),
        "memory_table": tables.memory(joined, STYLE),
        "environment_table": tables.environment(joined, STYLE),
        "evaluate_batch": params.evaluate.batch_size,
        "resamples": params.report.resamples,
        "rounds": ", ".join(f"{batch.rounds} at batch {batch.size}" for batch in params.benchmark.batches),
    }


def _accuracy_device(joined: dict[str, Any]) -> str:
    """Where the recipes' accuracy was measured, in words."""
    names = {"cpu": "the CPU", "cuda": f"the GPU, {joined['environment'].get('gpu', 'unknown')}"}
    devices: dict[str, list[str]] = {}
    for name, recipe in joined["recipes"].items():
        if "accuracy_device" in recipe:
            devices.setdefault(recipe["accuracy_device"], []).append(f"`{name}`")
    if len(devices) == 1:
        return names[next(iter(devices))]
    return "; ".join(f"{names[device]} ({', '.join(recipes)})" for device, recipes in devices.items()) or "no device"


def _answer(name: str, recipe: dict[str, Any]) -> str:
    """A recipe's result in one sentence, which follows from the numbers and their intervals."""
    parts = []
    if "top1_delta_pp" in recipe:
        low, high = recipe["top1_delta_ci95_pp"]
        certain = "a loss" if high < 0 else "a gain" if low > 0 else "not distinguishable from none"
        parts.append(f"top-1 {recipe['top1_delta_pp']:+.2f} pp [{low:+.2f}, {high:+.2f}], {certain}")
    sizes = [key for key in recipe if key.startswith("speedup_b") and key.endswith("_x") and "ci95" not in key]
    for key in sizes[:1]:
        batch = key.split("_")[1][1:]
        low, high = recipe[f"speedup_b{batch}_ci95_x"]
        parts.append(f"{recipe[key]:.2f} × [{low:.2f}, {high:.2f}] as fast at batch {batch}")
    if "size_reduction_pct" in recipe:
        parts.append(f"{recipe['size_reduction_pct']:.1f} % smaller")
    return f"- `{name}`: " + ("; ".join(parts) or "could not be measured here") + "."
