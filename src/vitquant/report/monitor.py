"""A log as a page in the report's style, and as a verdict on one line."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Picture

from vitquant import files
from vitquant.errors import VitquantError, printable
from vitquant.monitoring import labels, log, sequential, story
from vitquant.monitoring.drift import MOST, Drift
from vitquant.monitoring.labels import Accuracy
from vitquant.monitoring.log import History
from vitquant.monitoring.records import Image
from vitquant.monitoring.story import Series
from vitquant.report import figures
from vitquant.report.figures import Drawing
from vitquant.report.page import page
from vitquant.report.style import BLUE, GREY, ORANGE, WIDTH
from vitquant.report.text import code, escape, shown

POINTS = 200  # of a curve
PICTURES, COLUMNS = 24, 6
INTERVALS = "Bands are 95 % confidence sequences: they hold the share at all times at once, however often one looks."


def report(path: Path, labelled: Path | None, fp32: Path | None, out: Path) -> str:
    """Write the page of a log at `out`, and give the verdict.

    Args:
        labelled: a file of labels, if there is one.
        fp32: where the FP32 artifact lies, if not where the log says.

    Raises:
        VitquantError: the log is missing or empty, or labels do not fit it.
    """
    history = log.read(path)
    found = story.series(history)
    if not found:
        raise VitquantError(
            f"{path} has no line of an artifact that its heads name: name the folder, not one file of it"
        )
    accuracies: list[tuple[str, Accuracy]] = []
    if labelled:
        known = labels.read(labelled, history.heads[-1].classes)
        each = ((one.name, labels.accuracy(one.images, known)) for one in found)
        accuracies = [(name, accuracy) for name, accuracy in each if accuracy]
        if not accuracies:
            raise VitquantError(f"{labelled}: none of its ids is in {path}: only images that were sampled are there")
    drift = story.inputs(history, fp32)
    folder = path if path.is_dir() else path.parent
    with TemporaryDirectory(prefix="vitquant-") as temporary:
        drawn = figures.draw(_drawings(found, history, folder / "images"), Path(temporary) / "figures")
        markdown = "\n\n".join(_sections(found, history, drift, accuracies, drawn))
        with files.atomic(out) as partial:
            partial.write_text(page(markdown, Path(temporary), {each.name for each in drawn}), "utf-8")
    start = history.images[-MOST:][0].seq
    now = max(found, key=lambda one: sum(image.seq >= start for image in one.images))  # what answers, and all alarms
    said = [_verdict(one) for one in found if one is now or one.watched.alarm is not None]
    return printable("; ".join([*said, *map(_accuracy, accuracies), _drift(drift), _losses(history)]))


def _verdict(one: Series) -> str:
    watched = one.watched
    low, high = (100 * end for end in sequential.interval(watched.differ, watched.seen))
    said = (
        f"{one.name}: {watched.differ} of {watched.seen} images have another class than with fp32, "
        f"{100 * watched.differ / watched.seen:.2f} % [{low:.2f}, {high:.2f}], so that it costs at most "
        f"{high:.2f} pp of accuracy"
    )
    if watched.alarm is not None and watched.bound is not None:
        when = next((f" ({_moment(image.time)})" for image in one.images if image.alarm), "")
        return f"ALARM at image {watched.alarm}{when}: more than {100 * watched.bound:.2f} % differ; {said}"
    return f"{said}; {'no alarm' if watched.bound is not None else 'no agreement to hold that against'}"


def _accuracy(named: tuple[str, Accuracy]) -> str:
    name, found = named
    return (
        f"{name}: by {found.labelled} labels top-1 {shown(found.served, '.2f')} %, fp32 {shown(found.fp32, '.2f')} %, "
        f"difference {shown(found.difference, '+.2f')} pp"
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _drift(drift: Drift | str) -> str:
    if isinstance(drift, str):
        return f"whether the inputs changed is not known: {drift}"
    said = "the inputs changed" if drift.changed else "no change of the inputs is seen"
    return (
        f"{said} (last {drift.images} images: embeddings p = {drift.discrepancy_p:.3g}, confidence p = "
        f"{drift.confidence_p:.3g})"
    )


def _outside(name: str, shares: list[float]) -> str:
    mean, last = (f"{100 * np.mean(part):.3g} %" for part in (shares, shares[-MOST:]))
    return (
        f"{code(name)}: of the values that enter its quantized linear layers {mean} lay outside of the ranges that "
        f"calibration fixed ({len(shares)} images), and {last} of the last {min(len(shares), MOST)} images'; of the "
        "calibration images' own none. More than before says that the inputs changed; it says nothing about accuracy."
    )


def _losses(history: History) -> str:
    skipped, lost = (story.counted([getattr(image, name) for image in history.images]) for name in ("skipped", "lost"))
    parts = [f"{skipped} images skipped", f"{lost} lines lost", f"{history.broken} lines cut off or unreadable"]
    if history.set_back:
        parts.append(f"the clock went back {history.set_back} times (the order is that of the lines' numbers)")
    return ", ".join(parts)


def _sections(
    found: list[Series],
    history: History,
    drift: Drift | str,
    accuracies: list[tuple[str, Accuracy]],
    drawn: list[figures.Drawn],
) -> Iterator[str]:
    yield "# What a server's images say"
    for one in found:
        yield f"**{escape(_verdict(one))}.**"
    yield "## Against FP32"
    yield (
        "A random sample of the served images was given to FP32, too. Where both give the same class both are right or "
        f"both are wrong, so that accuracies differ by no more than the share of the others. {INTERVALS} The alarm "
        f"is a test at {100 * sequential.ALPHA:g} % over the artifact's whole life."
    )
    head = ["recipe", "compared", "differ", "share, %", "95 %", "allowed, %", "TV, median", "TV, p99", "least cosine"]
    rows = []
    for one in found:
        watched, moved = one.watched, np.array([image.total_variation for image in one.images])
        low, high = sequential.interval(watched.differ, watched.seen)
        cells = (
            *(code(one.name), f"{watched.seen}", f"{watched.differ}"),
            *(f"{100 * watched.differ / watched.seen:.2f}", f"{100 * low:.2f} to {100 * high:.2f}"),
            "–" if watched.bound is None else f"{100 * watched.bound:.2f}",
            *(f"{np.median(moved):.4f}", f"{np.percentile(moved, 99):.4f}"),
            f"{min(image.cosine for image in one.images):.4f}",
        )
        rows.append(list(cells))
    yield _table(head, rows)
    for figure in drawn:
        yield f"![{escape(figure.description)}](figures/{figure.name}.png)"
    yield "## Inputs"
    said = _drift(drift)
    yield (
        f"{escape(said[0].upper() + said[1:])}. This compares FP32's embeddings (maximum mean discrepancy, by "
        "permutations) and confidence (Kolmogorov–Smirnov) with those of the study's validation images, at 1 % "
        "together for this one look. It says nothing about accuracy."
    )
    for one in found:
        if outside := [image.outside for image in one.images if image.outside is not None]:
            yield _outside(one.name, outside)
    yield "## With labels"
    if accuracies:
        yield (
            "Prediction-powered: labels of some images, and the models' confidence for all that were sampled. The "
            "labelled ones must be a random part of the sample."
        )
        head = ["recipe", "labelled", "of", "top-1, %", "FP32's, %", "difference, pp"]
        yield _table(head, [_accuracy_row(*each) for each in accuracies])
    else:
        yield "None were given: `vitquant monitor LOG --labels FILE`, a CSV file of the columns id and label."
    yield "## The log"
    times = [image.time for image in history.images]
    period = f"from {_moment(min(times))} to {_moment(max(times))}, by the server's clock"
    yield f"{len(times)} images, {period}: {escape(_losses(history))}."


def _accuracy_row(name: str, found: Accuracy) -> list[str]:
    return [
        *(code(name), f"{found.labelled}", f"{found.images}"),
        *(shown(found.served, ".2f"), shown(found.fp32, ".2f"), shown(found.difference, "+.2f")),
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _drawings(found: list[Series], history: History, pictures: Path) -> Iterator[Drawing]:
    for number, one in enumerate(found):
        name = printable(one.name)
        yield f"differ-{number}", f"{name}: images with another class than FP32's, so far. {INTERVALS}", _differ(one)
        said = f"{name}: total variation between the served probabilities and FP32's, image by image"
        yield f"moved-{number}", said, _moved(one)
    kept = [image for image in history.images if image.differs and (pictures / f"{image.id}.png").is_file()]
    if kept:
        said = f"Images that differ, and were kept: served as, and FP32's class. {len(kept)} are there"
        yield "pictures", said, _pictures(kept[-PICTURES:], history.heads[-1].classes, pictures)


def _differ(one: Series) -> Figure:
    figure = Figure(figsize=(WIDTH, 3), layout="constrained")
    axes = figure.subplots()
    chosen = np.unique(np.linspace(0, len(one.seen) - 1, POINTS).astype(int))
    seen, differ = np.array(one.seen)[chosen], np.array(one.differ)[chosen]
    ends = 100 * np.array([sequential.interval(int(k), int(n)) for k, n in zip(differ, seen, strict=True)])
    axes.fill_between(seen, ends[:, 0], ends[:, 1], color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(seen, 100 * differ / seen, color=BLUE)
    bound, alarm = one.watched.bound, one.watched.alarm
    if bound is not None:
        axes.axhline(100 * bound, color=GREY, linestyle=":")
        axes.annotate("allowed", (1, 100 * bound), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    if alarm is not None:
        axes.axvline(alarm, color=ORANGE)
        axes.annotate("alarm", (alarm, 1), xycoords=("data", "axes fraction"), xytext=(4, -4), va="top",
                      textcoords="offset points", color=ORANGE)  # fmt: skip
    top = max(float(ends[-1, 1]) * 2, 100 * (bound or 0) * 1.5)
    axes.set(xlabel="images compared", ylabel="differ, %", ylim=(0, min(100.0, top)))
    return figure


def _moved(one: Series) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    moved = np.maximum([image.total_variation for image in one.images], 1e-6)
    differs = np.array([image.differs for image in one.images])
    seen = np.array(one.seen)
    axes.scatter(seen[~differs], moved[~differs], s=4, color=BLUE, label="same class", rasterized=True)
    axes.scatter(seen[differs], moved[differs], s=16, color=ORANGE, label="another class")
    axes.set(xlabel="images compared", ylabel="total variation", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")  # not in mathematics, which the style does not parse
    axes.yaxis.set_minor_formatter("")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


def _pictures(kept: list[Image], classes: list[str], folder: Path) -> Figure:
    lines = -(-len(kept) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 1.7 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image in zip(axes, kept, strict=False):
        with Picture.open(folder / f"{image.id}.png", formats=["PNG"]) as picture:
            axis.imshow(np.asarray(picture.convert("RGB")))
        names = (printable(classes[each])[:18] for each in (image.served, image.fp32))
        axis.set_title("\nnot ".join(names), fontsize=7)
    return figure
