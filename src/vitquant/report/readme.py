"""The result in the README: the text between its markers, made from metrics.json."""

from pathlib import Path
from typing import Any

from vitquant import files
from vitquant.errors import VitquantError
from vitquant.report import answer, tables
from vitquant.report.text import escape

START, END = "<!-- result -->", "<!-- /result -->"


def update(readme: Path, metrics: dict[str, Any], cuda: dict[str, Any]) -> None:
    """Put the result between the markers.

    Raises:
        VitquantError: the file has not exactly one pair of markers.
    """
    text = readme.read_text("utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in rest:
        raise VitquantError(f"{readme}: the result goes between one {START} and one {END}: put them back")
    changed = f"{before}{START}\n{block(metrics, cuda)}\n{END}{after}"
    if changed != text:
        with files.atomic(readme) as partial:
            partial.write_text(changed, "utf-8")


def block(metrics: dict[str, Any], cuda: dict[str, Any]) -> str:
    """The answer, the summary table and two figures, as Markdown."""
    environment, study = metrics["environment"], metrics["study"]
    return f"""{answer.answer(metrics, cuda)}

{study["eval_images"]:,} validation images, {escape(environment["threads"])} cores of an {escape(environment["cpu"])} \
({escape(", ".join(environment["isa"]))}), PyTorch {escape(environment["torch"])}; \
brackets are 95 % intervals of paired differences and ratios to `fp32`; \
[the report](results/report.md) says how each number was measured, and audits the claims this study began with.

{tables.summary(metrics, marked=answer.recommended(metrics))}

![Difference in top-1 to FP32 for each recipe, with 95 % intervals](results/figures/accuracy_difference.png)

![Latency of each recipe against its difference in top-1 to FP32, with 95 % intervals](results/figures/tradeoff.png)"""
