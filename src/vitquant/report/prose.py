"""The report's smaller texts, made from the numbers."""

from collections.abc import Sequence

from vitquant.analysis.details import ClassRow, Details
from vitquant.analysis.findings import Study
from vitquant.params import Params
from vitquant.report.figures import Drawn
from vitquant.report.tables import table
from vitquant.report.text import code, escape, listing, shown
from vitquant.results.environment import Conditions

WORST = 10  # classes that are named per recipe
CREDITS = {"elpv": "Photographs: ELPV dataset, Buerhop-Lutz et al. 2018, CC BY-NC-SA 4.0."}
BUSY = 2.0  # percent of the cores' time that others had, above which the report says so


def figures(drawn: Sequence[Drawn], data: str) -> str:
    """The figures, each as an image with its description as the text that stands in for it."""
    parts = [f"![{escape(figure.description)}](figures/{figure.name}.png)" for figure in drawn]
    if data in CREDITS:
        parts.append(CREDITS[data])
    return "\n\n".join(parts)


def embedding(study: Study, params: Params) -> str:
    """What is studied of a model without a classifier, and what top-1 then is; for the end of a paragraph."""
    pooled = {"class": "the class token", "mean": "the mean patch token", "own": "the model's own pooling"}
    if not study.facts.embedding:
        return ""
    return (
        f" It gives embeddings ({pooled[study.facts.embedding]}). Top-1, in all that follows, is that of the "
        f"{params.embedding.neighbours} nearest neighbours in the train split, by cosine, each with the weight of the "
        f"softmax at temperature {params.embedding.temperature:g}: DINOv2's own protocol; the class probabilities are "
        "the shares of their votes."
    )


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


def classes(details: Details) -> str:
    """The worst classes of each recipe looked into, and the images that moved most."""
    parts = []
    for name, rows in details.per_class.items():
        lost = [escape(row.name) for row in rows if row.top1_delta.high < 0]
        gained = [escape(row.name) for row in rows if row.top1_delta.low > 0]
        verdict = "; ".join(
            f"{what} beyond the interval: {', '.join(names) or 'none'}"
            for what, names in (("Lost", lost), ("gained", gained))
        )
        parts.append(
            f"{code(name)}, the worst of {len(rows)} classes. {verdict}. "
            "At 95 % each, one class in twenty may lie outside by chance.\n\n" + _class_table(rows[:WORST])
        )
    for name, images in details.disagreement.items():
        parts.append(
            f"The images whose class probabilities {code(name)} moves most (distance: total variation, 0 to 1):\n\n"
            + table(
                (
                    {
                        "image": escape(row.image),
                        "true class": escape(row.true_class),
                        "FP32": f"{escape(row.fp32)}, {row.fp32_probability:.3f}",
                        "quantized": f"{escape(row.recipe)}, {row.recipe_probability:.3f}",
                        "distance": f"{row.distance:.3f}",
                    }
                    for row in images
                ),
                text_columns=4,
            )
        )
    return "\n\n".join(parts) or "Not measured: no quantized recipe has an accuracy beside FP32's."


def _class_table(rows: Sequence[ClassRow]) -> str:
    return table(
        {
            "class": escape(row.name),
            "images": str(row.images),
            "FP32, top-1 %": f"{row.fp32_top1_pct:.2f}",
            "quantized, top-1 %": f"{row.top1_pct:.2f}",
            "Δ top-1, pp": shown(row.top1_delta, "+.2f"),
        }
        for row in rows
    )


def accuracy_device(study: Study) -> str:
    """Where the recipes' accuracy was measured, in words."""
    names = {"cpu": "the CPU", "cuda": f"the GPU, {escape(study.environment.gpu)}"}
    devices: dict[str, list[str]] = {}
    for name, recipe in study.recipes.items():
        if recipe.accuracy:
            devices.setdefault(recipe.accuracy.device, []).append(code(name))
    if len(devices) == 1:
        return names[next(iter(devices))]
    return "; ".join(f"{names[device]} ({', '.join(recipes)})" for device, recipes in devices.items()) or "no device"


def conditions(
    launches: Sequence[Conditions], repeated: Sequence[Conditions] = (), trial: Conditions | None = None
) -> str:
    """How busy the machine was while the launches were timed, and in the trial before them; what was repeated."""
    if not launches:
        return ""
    busiest = max(launches, key=lambda launch: launch.busy_pct)
    before, after = launches[0].load_average[0], launches[-1].load_average[1]
    clocks = [clock for launch in launches if launch.cpu_mhz for clock in launch.cpu_mhz]
    clock = f", clock {min(clocks):,.0f} to {max(clocks):,.0f} MHz" if clocks else ""
    line = (
        f"{_number_of(launches, 'launch', 'launches')} timed for {sum(each.seconds for each in launches) / 60:.0f} "
        f"minutes; in the busiest other processes had {busiest.others_pct:.1f} % of the cores' time and other virtual "
        f"machines {busiest.steal_pct:.1f} % (load average {before:.1f} before and {after:.1f} after{clock})"
    )
    if repeated:
        shares = listing([f"{each.busy_pct:.1f} %" for each in repeated])
        line += (
            f"; {_number_of(repeated, 'launch', 'launches')} thrown away before anybody saw the times, since others "
            f"had {shares}"
        )
    if trial and trial.busy_pct > BUSY:
        line += (
            f"; others had {trial.busy_pct:.1f} % in the launch before them, too, which tried the ways to run a batch "
            "and what is too slow"
        )
    if busiest.busy_pct <= BUSY:
        return f"{line}."
    return f"**The machine was busy**, and times and ratios may be off by more than their intervals say: {line}."


def _number_of(things: Sequence[object], one: str, several: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else several} {'was' if len(things) == 1 else 'were'}"


def allocator(study: Study) -> str:
    """What the processes that were measured allocated memory with."""
    return f" Every process has the same allocator, {escape(study.allocator)}." if study.allocator else ""


def energy(study: Study) -> str:
    """At which batch size energy was measured, and of what it is less; or why there is none."""
    if study.unavailable_energy:
        return f"Energy was not measured: {escape(study.unavailable_energy)}."
    sizes = sorted(
        {size for recipe in study.recipes.values() for size, speed in recipe.speeds.items() if speed.energy_mj}
    )
    if study.idle_w is None or not sizes:
        return ""
    return (
        f"Energy was measured at batch {listing([str(size) for size in sizes])}, and is less the {study.idle_w:.1f} W "
        "that are taken when nothing runs."
    )


def tails(study: Study) -> str:
    """The percentiles that take many passes, of the recommended recipe, or why there are none."""
    if study.unavailable_tails:
        return f"Tails were not measured: {escape(study.unavailable_tails)}."
    found = study.tails
    if not found:
        return ""
    drift = ""
    if found.first_p50_ms and found.last_p50_ms:
        drift = (
            f"; the median was {found.first_p50_ms:.1f} ms in the first fifth and {found.last_p50_ms:.1f} in the last"
        )
    return (
        f"Tails of {code(found.recipe)} over {found.passes:,} passes in a row at batch 1, with no other recipe "
        f"loaded: p50 {found.p50_ms:.1f} ms, p90 {found.p90_ms:.1f}, p99 {found.p99_ms:.1f}, "
        f"p99.9 {found.p999_ms:.1f}, the greatest {found.max_ms:.1f}{drift}. Meanwhile other processes had "
        f"{found.conditions.others_pct:.1f} % of the cores' time and other virtual machines "
        f"{found.conditions.steal_pct:.1f} %."
    )


def limits(study: Study) -> str:
    """What the numbers do not say."""
    recipes = study.recipes.values()
    variation = max(speed.spread_pct or 0.0 for recipe in recipes for speed in recipe.speeds.values())
    widths = [recipe.top1_delta.high - recipe.top1_delta.low for recipe in recipes if recipe.top1_delta]
    lines = [
        f"One model, one data set of {study.facts.eval_images:,} images, one machine: another ViT, other "
        "data or another CPU may rank the recipes otherwise.",
        f"Launches' times vary by up to {variation:.0f} % (robust spread of their medians): ratios within a round are "
        "steadier than times, and absolute times hold for this machine and its load.",
        "Several recipes are compared with FP32: of twenty true zeros, one may lie outside its interval.",
    ]
    if any(widths):
        lines.insert(
            1, f"Differences in top-1 are known to {max(widths) / 2:.1f} pp at worst (half an interval's width)."
        )
    return "\n".join(f"- {line}" for line in lines)


def roofline(study: Study) -> str:
    """What the linear layers' products per second are held against."""
    found = study.roofline
    if not found:
        return ""
    products = f"The linear layers take {found.products_per_image / 1e9:.2f} · 10⁹ products per image"
    if not found.register_products_per_s:
        reason = escape(found.unavailable or "no reason was given")
        return f"{products}; what this machine reaches in registers is not known: {reason}."
    rates = ", ".join(f"{rate / 1e9:,.0f} in {name}" for name, rate in found.register_products_per_s.items())
    return f"{products}; in registers this machine's threads reach, in 10⁹ products per second, {rates}."
