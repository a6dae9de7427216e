"""The report's smaller texts, made from the numbers."""

from collections.abc import Sequence
from typing import Any

from vitquant.params import Params
from vitquant.report.figures import Drawn
from vitquant.report.tables import batch_sizes, table
from vitquant.report.text import code, escape, estimate

WORST = 10  # classes that are named per recipe
CREDITS = {"elpv": "Photographs: ELPV dataset, Buerhop-Lutz et al. 2018, CC BY-NC-SA 4.0."}


def figures(drawn: Sequence[Drawn], data: str) -> str:
    """The figures, each as an image with its description as the text that stands in for it."""
    parts = [f"![{escape(figure.description)}](figures/{figure.name}.png)" for figure in drawn]
    if data in CREDITS:
        parts.append(CREDITS[data])
    return "\n\n".join(parts)


def recipes(params: Params) -> str:
    """What each recipe is: its method and options in params.yaml."""
    return table(
        (
            {
                "recipe": escape(name),
                "method": code(recipe.method),
                "options": escape(", ".join(f"{key}: {value}" for key, value in recipe.options.items()) or "none"),
            }
            for name, recipe in params.recipes.items()
        ),
        text_columns=3,
    )


def classes(details: dict[str, Any]) -> str:
    """The worst classes of each recipe looked into, and the images that moved most."""
    parts = []
    for name, rows in details.get("per_class", {}).items():
        lost = [escape(row["class"]) for row in rows if row["top1_delta_ci95_pp"][1] < 0]
        verdict = f"Beyond the interval lost: {', '.join(lost)}." if lost else "None lost beyond its interval."
        parts.append(
            f"{code(name)}, the worst of {len(rows)} classes. {verdict} "
            "At 95 % each, one class in twenty may lie outside by chance.\n\n" + _class_table(rows[:WORST])
        )
    for name, rows in details.get("disagreement", {}).items():
        parts.append(
            f"The images whose class probabilities {code(name)} moves most (distance: total variation, 0 to 1):\n\n"
            + table(
                (
                    {
                        "image": escape(row["image"]),
                        "true class": escape(row["class"]),
                        "FP32": f"{escape(row['fp32'])}, {row['fp32_probability']:.3f}",
                        "quantized": f"{escape(row['recipe'])}, {row['recipe_probability']:.3f}",
                        "distance": f"{row['distance']:.3f}",
                    }
                    for row in rows
                ),
                text_columns=4,
            )
        )
    return "\n\n".join(parts) or "Not measured: no quantized recipe has an accuracy beside FP32's."


def accuracy_device(metrics: dict[str, Any]) -> str:
    """Where the recipes' accuracy was measured, in words."""
    names = {"cpu": "the CPU", "cuda": f"the GPU, {escape(metrics['environment'].get('gpu', 'unknown'))}"}
    devices: dict[str, list[str]] = {}
    for name, recipe in metrics["recipes"].items():
        if "accuracy_device" in recipe:
            devices.setdefault(recipe["accuracy_device"], []).append(code(name))
    if len(devices) == 1:
        return names[next(iter(devices))]
    return "; ".join(f"{names[device]} ({', '.join(recipes)})" for device, recipes in devices.items()) or "no device"


def limits(metrics: dict[str, Any]) -> str:
    """What the numbers do not say."""
    study, recipes = metrics["study"], metrics["recipes"]
    sizes = batch_sizes(metrics)
    variation = max(recipe.get(f"latency_b{size}_cv_pct", 0.0) for recipe in recipes.values() for size in sizes)
    widths = [high - low for recipe in recipes.values() for low, high in [recipe.get("top1_delta_ci95_pp", (0, 0))]]
    lines = [
        f"One model, one data set of {study['eval_images']:,} images, one machine: another ViT, other "
        "data or another CPU may rank the recipes otherwise.",
        f"Passes vary by up to {variation:.0f} % (coefficient of variation): ratios within a round are steadier than "
        "times, and absolute times hold for this machine and its load.",
        "Memory and size are single measurements, without intervals.",
        "Several recipes are compared with FP32: of twenty true zeros, one may lie outside its interval.",
    ]
    if any(widths):
        lines.insert(
            1, f"Differences in top-1 are known to {max(widths) / 2:.1f} pp at worst (half an interval's width)."
        )
    return "\n".join(f"- {line}" for line in lines)


def _class_table(rows: list[dict[str, Any]]) -> str:
    return table(
        {
            "class": escape(row["class"]),
            "images": str(row["images"]),
            "FP32, top-1 %": f"{row['fp32_top1_pct']:.2f}",
            "quantized, top-1 %": f"{row['top1_pct']:.2f}",
            "Δ top-1, pp": estimate(row, "top1_delta_pp", "+.2f"),
        }
        for row in rows
    )
