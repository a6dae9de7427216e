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
from vitquant.analysis import claims, draws, drift, flat, outliers, rules, studies
from vitquant.analysis import serving as served
from vitquant.analysis.analyse import analyse, possible
from vitquant.analysis.details import Details, details
from vitquant.analysis.draws import Spread
from vitquant.analysis.findings import Findings, Study
from vitquant.analysis.load import Inputs, load
from vitquant.analysis.recommend import BUDGET, marked, recommended
from vitquant.errors import VitquantError
from vitquant.params import Params
from vitquant.report import (
    answer,
    draws_section,
    drift_section,
    figures,
    gpu_section,
    outliers_section,
    page,
    prose,
    serving_section,
    studies_section,
    tables,
)
from vitquant.report.text import code, escape, listing
from vitquant.results import form
from vitquant.results.accuracy import ROUNDING
from vitquant.results.benchmark import Benchmark
from vitquant.results.drift import Drifts
from vitquant.results.outliers import Outliers
from vitquant.results.serving import Serving


@dataclass(frozen=True)
class Beside:
    """Where what was measured beside the stages lies; of each there may be none."""

    outliers: Path | None = None
    studies: Path | None = None
    serving: Path | None = None
    drift: Path | None = None


NOTHING = Beside()


@dataclass(frozen=True)
class Content:
    """All that the report is made of."""

    findings: Findings
    details: Details
    benchmark: Benchmark
    """For the figure of every timed pass."""
    images: NDArray[np.uint8] | None
    """Of the validation split, (N, H, W, 3)."""
    spreads: list[Spread]
    """Of other draws."""
    outliers: Outliers | None
    studies: dict[str, Study]
    """That ship beside this one, by name."""
    serving: Serving | None
    """What the server was measured to do with these artifacts on this machine."""
    served_gpus: list[Serving]
    """Likewise on GPUs, with recipes of theirs."""
    drifts: Drifts | None


def report(params: Params, inputs: Inputs, out: Path, beside: Beside = NOTHING) -> None:
    """Load the results in `inputs`, analyse them, and write findings.json, metrics.json, summary.json, results.csv,
    details.json, plots/, report.md, report.html and figures/ into the folder `out`.

    Raises:
        VitquantError: a result is missing or unreadable, results do not belong together, or a number cannot be; no file
            but the figures has then changed.
    """
    with possible():
        content = read(params, inputs, beside)
        study = content.findings.study
        written: dict[str, Any] = {
            "findings.json": form.dump(content.findings),
            "details.json": form.dump(content.details),
            "metrics.json": flat.metrics(study),
            "summary.json": flat.summary(study),
            **{f"plots/{name}.json": rows for name, rows in flat.plots(study).items()},
            "results.csv": flat.table(content.findings),
        }
        drawn = figures.draw(drawings(content), out / "figures")
        written["report.md"] = markdown(params, content, drawn)
        written["report.html"] = page.page(written["report.md"], out, [figure.name for figure in drawn])
    for name, whole in written.items():
        if isinstance(whole, str):
            with files.atomic(out / name) as partial:
                partial.write_text(whole, "utf-8")
        else:
            files.write_json(out / name, whole)


def read(params: Params, inputs: Inputs, beside: Beside = NOTHING) -> Content:
    """Load the results in `inputs`, and analyse them.

    Raises:
        VitquantError: as `report` does.
    """
    results = load(params, inputs)
    findings = analyse(results)
    tails, chosen = findings.study.tails, recommended(findings.study)
    if tails and chosen and tails.recipe != chosen:
        raise VitquantError(f"{inputs.tails} is of {tails.recipe}, and {chosen} is recommended: run `dvc repro`")
    found = details(results, marked(findings.study))
    spreads = draws.read(inputs.draws, params, results) if inputs.draws else []
    return Content(
        findings,
        found,
        results.benchmark,
        results.prepared.images("val"),
        spreads,
        outliers.read(beside.outliers, params) if beside.outliers else None,
        studies.read(beside.studies, params.study) if beside.studies else {},
        served.read(beside.serving, results),
        served.read_gpus(beside.serving),
        drift.read(beside.drift, params) if beside.drift else None,
    )


def drawings(content: Content) -> Iterator[figures.Drawing]:
    """The report's figures, made one by one."""
    study = content.findings.study
    yield from figures.drawings(
        study, content.benchmark, content.details, content.images, marked(study), content.serving
    )
    yield (
        "outliers",
        "Agreement with FP32 of each recipe against the factor of outliers in channels and in tokens, in percent, "
        "with 95 % intervals",
        outliers_section.figure(content.outliers, marked(study)),
    )
    yield (
        "drift",
        "Top-1 of each recipe against the strength of each kind of drift of the images, in percent",
        drift_section.figure(content.drifts),
    )


def markdown(params: Params, content: Content, drawn: Sequence[figures.Drawn]) -> str:
    """report.md, from template.md; it shows the figures `drawn`, and draws none itself."""
    template = Template(resources.files("vitquant.report").joinpath("template.md").read_text("utf-8"))
    return template.substitute(_results(params, content, drawn) | _method(params, content))


def _results(params: Params, content: Content, drawn: Sequence[figures.Drawn]) -> dict[str, Any]:
    """What the template shows of the findings."""
    findings, study = content.findings, content.findings.study
    facts, machine = study.facts, study.environment
    audited = claims.audit(findings, content.studies, content.serving, content.drifts)
    verdicts = listing([f"{number} {verdict}" for verdict, number in claims.counts(audited).items()])
    return {
        "title": escape(facts.name),
        "study": f"{code(facts.model)} on {escape(facts.data)}: {facts.eval_images:,} validation images, "
        f"{facts.classes} classes, on {escape(machine.cpu)}.{prose.embedding(study, params)}",
        "answer": answer.answer(findings),
        "summary_table": tables.summary(study, marked=recommended(study)),
        "unavailable": tables.unavailable(study),
        "where": f"{code(facts.model)} on {escape(facts.data)}, on the CPU, {escape(machine.cpu)}, "
        "unless a row says otherwise",
        "verdicts": f"of {len(audited)} claims, {verdicts}",
        "claims_table": tables.claims(audited),
        "setup_table": tables.setup(claims.setup(findings)),
        "figures": prose.figures(drawn, facts.data),
        "gpu": gpu_section.section(findings),
        "studies": studies_section.section(content.studies, study),
        "serving": serving_section.section(content.serving, content.served_gpus),
        "accuracy_table": tables.accuracy(study),
        "draws": draws_section.section(content.spreads, study),
        "outliers": outliers_section.section(content.outliers),
        "drift": drift_section.section(content.drifts, drift.disagreements(study)),
        "classes": prose.classes(content.details),
        "roofline": prose.roofline(study),
        "allocator": prose.allocator(study),
        "energy": prose.energy(study),
        "latency_table": tables.latency(study),
        "tails": prose.tails(study),
        "memory_table": tables.memory(study),
        "cpu": escape(machine.cpu),
        "threads": escape(machine.threads),
        "accuracy_device": prose.accuracy_device(study),
        "conditions": prose.conditions(study.conditions, study.repeated, study.trial),
        "environment_table": tables.environment(study),
        "limits": prose.limits(study),
    }


def _method(params: Params, content: Content) -> dict[str, Any]:
    """What the template shows of the parameters and rules."""
    study = content.findings.study
    commit = study.environment.git_commit
    return {
        "recipes_table": prose.recipes(params),
        "evaluate_batch": params.evaluate.batch_size,
        "evaluate_large_batch": params.evaluate.large_batch,
        "rounding": f"{ROUNDING:g}",
        "launches": _launches(len(study.conditions)),
        "rounds": ", ".join(f"{batch.rounds} at batch {batch.size}" for batch in params.benchmark.batches),
        "energy_seconds": f"{params.benchmark.energy_seconds:g}",
        "first_batch": study.sizes[0],
        "budget": BUDGET,
        "margin": f"{drift.MARGIN:g}",
        "widest_change": f"{rules.WIDEST_CHANGE:g}",
        "widest_difference": f"{rules.WIDEST_DIFFERENCE:g}",
        "widest_accuracy": f"{rules.WIDEST_ACCURACY:g}",
        "exact": f"{rules.EXACT:g}",
        "near": f"{rules.NEAR_PCT:g}",
        "steady": f"{rules.STEADY_PCT:g}",
        "checkout": _hexadecimal(commit.partition("+")[0]),
        "changes": "The code had uncommitted changes when this was measured. " if "+" in commit else "",
    }


def _launches(number: int) -> str:
    return "One launch" if number == 1 else f"{number} launches"


def _hexadecimal(commit: str) -> str:
    """The commit, for a line that people paste into a shell; nothing else may stand there."""
    return commit if re.fullmatch("[0-9a-f]{7,64}", commit) else "unknown"
