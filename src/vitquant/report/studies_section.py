"""The report's section on the studies that ship beside this one."""

from collections.abc import Mapping

from vitquant.analysis.findings import Study
from vitquant.analysis.load import MACHINE
from vitquant.report import prose
from vitquant.report.tables import summary, unavailable
from vitquant.report.text import code, escape

NONE = "No other study lies in `results/studies`: `make studies` measures those that ship."
COMMIT = 12  # digits of a commit that are told


def section(others: Mapping[str, Study], study: Study) -> str:
    """Each with its model, where it was measured, and its summary."""
    parts = [part for name, other in others.items() for part in _study(name, other, study)]
    return "\n\n".join(parts) or NONE


def _study(name: str, other: Study, study: Study) -> list[str]:
    facts, environment = other.facts, other.environment
    differs = [key for key in MACHINE if getattr(environment, key) != getattr(study.environment, key)]
    where = f"on another machine than this report's ({', '.join(differs)})" if differs else "on this report's machine"
    what = f"embeddings ({facts.embedding})" if facts.embedding else f"{facts.classes} classes"
    parts = [
        f"### {escape(name)}",
        f"{code(facts.model)} on {escape(facts.data)}, {facts.eval_images:,} validation images, {what}; measured "
        f"{where}, {escape(environment.cpu)}, PyTorch {escape(environment.torch)}, commit "
        f"{escape(environment.git_commit[:COMMIT])}.",
        prose.conditions(other.conditions, other.repeated, other.trial),
        summary(other),
        unavailable(other),
    ]
    return [part for part in parts if part]
