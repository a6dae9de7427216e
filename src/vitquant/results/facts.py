"""What a study is about, in a few facts."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from vitquant.data.prepared import Prepared
from vitquant.params import Params
from vitquant.results.form import Form


class Facts(Form):
    """What was studied."""

    name: Annotated[str, Field(min_length=1)]
    model: str
    data: str
    eval_images: NonNegativeInt
    classes: NonNegativeInt
    crop: PositiveInt | None = None
    """The input's height and width, pixels; None in findings of version 1, which did not say."""
    embedding: Literal["class", "mean", "own"] | None = None
    """How tokens are pooled, where embeddings are studied: top-1 is then that of the nearest neighbours."""


def facts(params: Params, prepared: Prepared) -> Facts:
    """Of the study that `params` describe, on the prepared data."""
    return Facts(
        name=params.study,
        model=params.model.name,
        data=params.data.source,
        eval_images=len(prepared.labels("val")),
        classes=len(prepared.classes),
        crop=prepared.preprocessing.crop,
        embedding=params.embedding.pooling if params.head == "features" else None,
    )
