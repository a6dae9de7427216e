"""The result in the README: the text between its markers, made from the findings."""

from pathlib import Path

from vitquant import files
from vitquant.analysis.findings import Findings
from vitquant.analysis.recommend import recommended
from vitquant.errors import VitquantError
from vitquant.report import answer, tables
from vitquant.report.text import escape

START, END = "<!-- result -->", "<!-- /result -->"


def update(readme: Path, findings: Findings) -> None:
    """Put the result between the markers.

    Raises:
        VitquantError: the file has not exactly one pair of markers.
    """
    text = readme.read_text("utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in rest:
        raise VitquantError(f"{readme}: the result goes between one {START} and one {END}: put them back")
    changed = f"{before}{START}\n{block(findings)}\n{END}{after}"
    if changed != text:
        with files.atomic(readme) as partial:
            partial.write_text(changed, "utf-8")


def block(findings: Findings) -> str:
    """The answer, the summary table and two figures, as Markdown."""
    study = findings.study
    machine = study.environment
    return f"""{answer.answer(findings)}

{study.facts.eval_images:,} validation images, {escape(machine.threads)} cores of an {escape(machine.cpu)} \
({escape(", ".join(machine.isa))}), PyTorch {escape(machine.torch)}; \
× is a ratio of speeds, to the best recipe that does not quantize or to `fp32`, PyTorch eager, where people start; \
brackets are 95 % intervals over images, or over launches of ratios within a round; \
[the report](results/report.md) says how each number was measured, and audits the claims this study began with.

{tables.summary(study, marked=recommended(study))}

![Difference in top-1 to FP32 for each recipe, with 95 % intervals](results/figures/accuracy_difference.png)

![Latency of each recipe against its difference in top-1 to FP32, with 95 % intervals](results/figures/tradeoff.png)"""
