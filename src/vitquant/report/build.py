"""The report: metrics.json and its neighbours, the figures, report.md from template.md, and report.html from that."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitquant import files
from vitquant.data.prepared import Prepared
from vitquant.params import Params
from vitquant.report import answer, claims, details, figures, gpu_section, metrics, page, prose, tables
from vitquant.report.consistency import check_machines
from vitquant.report.text import code, escape


@dataclass(frozen=True)
class Content:
    """All that the report is made of."""

    metrics: dict[str, Any]
    benchmark: dict[str, Any]
    details: dict[str, Any]
    profile: dict[str, Any]
    cuda: dict[str, Any]
    images: NDArray[np.uint8] | None
    """Of the validation split, (N, H, W, 3)."""
    crop: int | None
    """Their side, pixels."""


def report(params: Params, inputs: metrics.Inputs, out: Path) -> None:
    """Join the results in `inputs` and write metrics.json, summary.json, details.json, plots/, report.md,
    report.html and figures/ into the folder `out`.

    Raises:
        VitquantError: a result is missing or unreadable, or results do not belong together.
    """
    content = read(params, inputs)
    files.write_json(out / "metrics.json", content.metrics)
    files.write_json(out / "summary.json", metrics.summary(content.metrics))
    files.write_json(out / "details.json", content.details)
    with files.atomic(out / "plots") as partial:
        for name, rows in metrics.plots(content.metrics).items():
            files.write_json(partial / f"{name}.json", rows)
    drawn = figures.draw(drawings(content), out / "figures")
    text = markdown(params, content, drawn)
    with files.atomic(out / "report.md") as partial:
        partial.write_text(text, "utf-8")
    with files.atomic(out / "report.html") as partial:
        partial.write_text(page.page(text, out, [figure.name for figure in drawn]), "utf-8")


def read(params: Params, inputs: metrics.Inputs) -> Content:
    """Join the results in `inputs`.

    Raises:
        VitquantError: as `report` does.
    """
    prepared = Prepared(inputs.data)
    logits = metrics.read_logits(params, inputs.predictions)
    joined = metrics.join(params, inputs, logits)
    profile = files.read_json(inputs.profile) if inputs.profile.exists() else {}
    benchmark = files.read_json(inputs.benchmark)
    check_machines({inputs.benchmark: benchmark["environment"], inputs.profile: profile.get("environment", {})})
    found = details.details(logits, prepared, answer.marked(joined), params.report)
    cuda = gpu_section.read(inputs.cuda)
    return Content(joined, benchmark, found, profile, cuda, prepared.images("val"), prepared.preprocessing.crop)


def drawings(content: Content) -> Iterator[figures.Drawing]:
    """The report's figures, made one by one."""
    return figures.drawings(
        content.metrics, content.benchmark, content.details, content.profile, content.images,
        answer.marked(content.metrics),
    )  # fmt: skip


def markdown(params: Params, content: Content, drawn: Sequence[figures.Drawn]) -> str:
    """report.md, from template.md; it shows the figures `drawn`, and draws none itself."""
    template = Template(resources.files("vitquant.report").joinpath("template.md").read_text("utf-8"))
    return template.substitute(_values(params, content, drawn))


def _values(params: Params, content: Content, drawn: Sequence[figures.Drawn]) -> dict[str, Any]:
    joined = content.metrics
    study, environment = joined["study"], joined["environment"]
    commit = str(environment.get("git_commit", "unknown"))
    findings = claims.audit(joined, content.cuda, content.crop)
    return {
        "title": escape(params.study),
        "study": f"{code(study['model'])} on {escape(study['data'])}: {study['eval_images']:,} validation images, "
        f"{study['classes']} classes, on {escape(environment['cpu'])}.",
        "answer": answer.answer(joined, content.cuda),
        "summary_table": tables.summary(joined, marked=answer.recommended(joined)),
        "unavailable": tables.unavailable(joined["recipes"]),
        "where": f"{code(study['model'])} on {escape(study['data'])}, on the CPU, {escape(environment['cpu'])}, "
        f"unless a row says otherwise",
        "verdicts": claims.count(findings),
        "claims_table": tables.claims(findings),
        "figures": prose.figures(drawn, study["data"]),
        "gpu": gpu_section.section(content.cuda),
        "recipes_table": prose.recipes(params),
        "accuracy_table": tables.accuracy(joined),
        "classes": prose.classes(content.details),
        "latency_table": tables.latency(joined),
        "memory_table": tables.memory(joined),
        "cpu": escape(environment["cpu"]),
        "threads": escape(environment["threads"]),
        "accuracy_device": prose.accuracy_device(joined),
        "environment_table": tables.environment(environment),
        "evaluate_batch": params.evaluate.batch_size,
        "resamples": f"{params.report.resamples:,}",
        "rounds": ", ".join(f"{batch.rounds} at batch {batch.size}" for batch in params.benchmark.batches),
        "first_batch": tables.batch_sizes(joined)[0],
        "budget": answer.BUDGET,
        "widest_change": f"{claims.WIDEST_CHANGE:g}",
        "widest_difference": f"{claims.WIDEST_DIFFERENCE:g}",
        "widest_accuracy": f"{claims.WIDEST_ACCURACY:g}",
        "exact": f"{claims.EXACT:g}",
        "steady": f"{claims.STEADY_CV:g}",
        "checkout": _hexadecimal(commit.partition("+")[0]),
        "changes": "The code had uncommitted changes when this was measured. " if "+" in commit else "",
        "limits": prose.limits(joined),
    }


def _hexadecimal(commit: str) -> str:
    """The commit, for a line that people paste into a shell; nothing else may stand there."""
    return commit if re.fullmatch("[0-9a-f]{7,64}", commit) else "unknown"
