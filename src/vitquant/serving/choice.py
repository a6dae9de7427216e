"""Which artifact is used: the one that is named, or the one that the study recommends."""

from pathlib import Path

from vitquant.analysis import store
from vitquant.analysis.recommend import recommended
from vitquant.errors import VitquantError

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

    Raises:
        VitquantError: there are no findings.
    """
    from vitquant.analysis import drift  # and SciPy, which a server that watches nothing does without

    return drift.disagreements(store.read(findings).study)
