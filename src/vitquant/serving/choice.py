"""Which artifact is used: the one that is named, or the one that the study recommends."""

from pathlib import Path

import numpy as np

from vitquant.analysis import store
from vitquant.analysis.recommend import recommended
from vitquant.errors import VitquantError
from vitquant.params import BASELINE

ARTIFACTS = Path("models/recipes")


def of_study(findings: Path, artifacts: Path = ARTIFACTS) -> Path:
    """The artifact of the recipe that the study in `findings` recommends.

    Raises:
        VitquantError: there are no findings, or none that recommend a recipe.
    """
    name = recommended(store.read(findings).study)
    if name is None:
        raise VitquantError(f"{findings} recommends no recipe, since accuracy was not measured: give --artifact")
    return artifacts / name


def disagreements(findings: Path) -> dict[str, float]:
    """The share of images that each recipe may give another class than FP32, by the study in `findings`.

    The study's agreement is an estimate: the upper end of its interval counts (Wilson's, 95 %).

    Raises:
        VitquantError: there are no findings.
    """
    from vitquant.analysis import statistics  # SciPy, which a server that watches nothing does without

    study = store.read(findings).study
    total, found = study.facts.eval_images, {}
    for name, recipe in study.recipes.items():
        agreement = recipe.accuracy.agreement_pct if recipe.accuracy else None
        if agreement is not None and name != BASELINE:
            same = np.arange(total) < round(agreement / 100 * total)
            found[name] = 1 - statistics.proportion(same).low / 100
    return found
