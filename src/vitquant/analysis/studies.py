"""The studies that ship beside the committed one: results/studies/<name>/findings.json."""

from collections.abc import Mapping
from pathlib import Path

from vitquant.analysis import store
from vitquant.analysis.findings import Study


def read(folder: Path, own: str) -> dict[str, Study]:
    """By name, in its order; none where there is no folder.

    Args:
        own: the name of the study that they are shown beside, which is left out.

    Raises:
        VitquantError: one is unreadable, of another version, or was not timed.
    """
    found = (store.read(file).study for file in sorted(folder.glob("*/findings.json")))
    return {study.facts.name: study for study in found if study.facts.name != own}


def is_vit_b(study: Study) -> bool:
    """Whether a study is of the seed report's model, with whatever weights."""
    return study.facts.model.startswith("vit_base_patch14_dinov2")


def vit_b_of(study: Study, others: Mapping[str, Study]) -> Study | None:
    """The study itself or the first of the others that is of a ViT-B."""
    return next((each for each in (study, *others.values()) if is_vit_b(each)), None)
