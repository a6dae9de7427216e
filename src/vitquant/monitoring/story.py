"""A log's lines as what happened: of each artifact a series, and of all of them whether the inputs changed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from vitquant import reference
from vitquant.artifact import open_artifact
from vitquant.errors import VitquantError
from vitquant.monitoring import drift, records
from vitquant.monitoring.drift import Drift
from vitquant.monitoring.log import History
from vitquant.monitoring.records import Head, Image, Watched


@dataclass
class Series:
    """Of one artifact, in the order of the log."""

    watched: Watched
    """At the end."""
    name: str
    """The recipe's, and where another series has the same, `@` and the beginning of the artifact's digest."""
    images: list[Image] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    """How many images had been compared with each of `images`: more than are here, where lines were lost or deleted."""
    differ: list[int] = field(default_factory=list)


def series(history: History) -> list[Series]:
    """Of every artifact that answered; a file's head knows of lines before it that are lost.

    One whose bound has become another has a second series: it is another test, which began then.
    """
    found: list[Series] = []
    now: dict[str, Series] = {}
    lines: list[Head | Image] = sorted([*history.heads, *history.images], key=lambda line: line.seq)
    for line in lines:
        if isinstance(line, Head):
            for watched in line.watched:
                one = now.get(watched.sha256)
                if not one or one.watched.bound != watched.bound:
                    one = now[watched.sha256] = Series(watched, watched.recipe)
                    found.append(one)
                one.watched = watched.model_copy()
        elif one := now.get(line.sha256):
            one.watched.add(line.differs)
            one.images.append(line)
            one.seen.append(one.watched.seen)
            one.differ.append(one.watched.differ)
    found = [one for one in found if one.images]
    recipes = Counter(one.watched.recipe for one in found)
    for one in found:
        if recipes[one.watched.recipe] > 1:
            one.name += f"@{one.watched.sha256[:8]}"
    return found


def counted(numbers: Sequence[int]) -> int:
    """What a counter that begins again with every start of the server has counted in all."""
    steps = zip([0, *numbers], numbers, strict=False)
    return sum(after if after < before else after - before for before, after in steps)


def inputs(history: History, fp32: Path | None) -> Drift | str:
    """Whether the last images are like those of the reference; or why nobody knows.

    Args:
        fp32: the artifact that has the reference; None for the one that the log names.
    """
    head, images = history.heads[-1], history.images[-drift.MOST :]
    path = fp32 or Path(head.fp32)
    try:
        artifact = open_artifact(path)
        if artifact.sha256 != head.fp32_sha256:
            return f"{path} is another artifact than the log's"
        kept = reference.read(artifact)
    except (VitquantError, SafetensorError, OSError) as error:
        return str(error)
    if kept is None:
        return f"{path} keeps no reference of what it was made of: make it again with `dvc repro`"
    if len(images) < drift.FEWEST:
        return f"{len(images)} images are too few: {drift.FEWEST} are needed"
    confidence = np.array([image.fp32_confidence for image in images], np.float32)
    embedding = np.stack([records.unpacked(image.embedding) for image in images])
    if embedding.shape[1] != kept.embedding.shape[1]:
        return f"{path} keeps embeddings of another width than the log's"
    return drift.compare(embedding, confidence, kept.embedding, drift.confidence(kept.logits))
