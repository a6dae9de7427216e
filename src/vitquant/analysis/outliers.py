"""How recipes bear outliers: agreement with FP32 and difference in top-1, by the outliers' factor."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitquant.analysis import statistics
from vitquant.analysis.findings import Estimate
from vitquant.params import Params
from vitquant.results import form, outliers
from vitquant.results.outliers import Kind, Outliers, Row


@dataclass(frozen=True)
class Borne:
    """A recipe with outliers of a kind, by their factor, ascending from 1."""

    recipe: str
    kind: Kind
    agreement: dict[float, Estimate]
    """With FP32 on the same weights, %; of FP32 itself with FP32 on the study's."""
    delta: dict[float, Estimate]
    """In top-1, to the same, pp."""
    moved: float
    """The greatest difference of a logit to the same, at any factor."""

    @property
    def greatest(self) -> float:
        """The factor."""
        return max(self.agreement)

    @property
    def borne(self) -> bool:
        """Whether the interval of agreement at the greatest factor reaches the agreement without outliers."""
        return self.agreement[self.greatest].high >= self.agreement[min(self.agreement)].value


def bearing(measured: Outliers) -> list[Borne]:
    """By kind, then recipe, in the rows' order."""
    groups: dict[tuple[Kind, str], list[Row]] = {}
    for row in sorted(measured.rows, key=lambda row: (row.kind, row.factor)):
        groups.setdefault((row.kind, row.recipe), []).append(row)
    return [
        Borne(
            recipe=recipe,
            kind=kind,
            agreement={row.factor: _agreement(row, measured.images) for row in rows},
            delta={row.factor: _delta(row, measured.images) for row in rows},
            moved=max(row.moved for row in rows),
        )
        for (kind, recipe), rows in groups.items()
    ]


def _agreement(row: Row, images: int) -> Estimate:
    return statistics.proportion(np.arange(images) < row.agreeing)


def _delta(row: Row, images: int) -> Estimate:
    image, both = np.arange(images), row.hits - row.gained
    ours = image < row.hits
    return statistics.paired_difference(ours, (image < both) | (~ours & (image < row.hits + row.lost)))


def read(folder: Path, params: Params) -> Outliers | None:
    """What outliers.json in the folder says, where it is of this study.

    Raises:
        VitquantError: it cannot be read.
    """
    file = folder / outliers.FILE
    if not file.exists():
        return None
    measured = form.read(file, Outliers, "delete it, and run `make outliers`")
    ours = params.recipes.keys() >= set(measured.recipes)
    return measured if ours and measured.inputs == outliers.inputs(params, measured.recipes) else None
