"""Predictions as text: a table for a terminal, CSV and JSON lines; a file of the latter two can be gone on with.

A row of CSV has the columns file, recipe, artifact, class_1, probability_1, class_2 and so on; a JSON line has file,
recipe, artifact, classes and probabilities, the most probable first. `artifact` is the SHA-256 of its recipe.json.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from pydantic import BaseModel, ConfigDict
from tabulate import tabulate

from vitquant import files
from vitquant.artifact import Artifact
from vitquant.errors import VitquantError, printable
from vitquant.serving.many import Prediction

Format = Literal["table", "csv", "jsonl"]


class Row(BaseModel):
    """The most probable classes of an image, the best first."""

    model_config = ConfigDict(extra="forbid")

    file: str
    recipe: str
    artifact: str
    classes: list[str]
    probabilities: list[float]


class Rows:
    """Makes rows of predictions.

    Args:
        top: how many classes a row has at most.
    """

    def __init__(self, artifact: Artifact, top: int) -> None:
        self._classes, self._recipe, self._digest = artifact.spec.classes, artifact.spec.recipe, artifact.sha256
        self._top = min(top, len(self._classes))

    def row(self, prediction: Prediction) -> Row:
        """Of an image that could be predicted."""
        assert prediction.probabilities is not None
        best = np.argsort(-prediction.probabilities, kind="stable")[: self._top]
        return Row(
            file=files.as_text(str(prediction.file)),
            recipe=self._recipe,
            artifact=self._digest,
            classes=[self._classes[index] for index in best],
            probabilities=[round(float(prediction.probabilities[index]), 6) for index in best],
        )

    def remaining(self, images: Sequence[Path], out: Path | None, form: Format) -> list[Path]:
        """Of `images`, those that the file `out` has no row of.

        Raises:
            VitquantError: as `_done`.
        """
        done = self._done(out, form) if out else set()
        return [image for image in images if files.as_text(str(image)) not in done]

    def _done(self, path: Path, form: Format) -> set[str]:
        """The files that `path` already has rows of; a last row that was cut off is removed from it.

        Raises:
            VitquantError: it holds something else, or rows of another artifact or number of classes.
        """
        if not path.exists() or not path.stat().st_size:
            return set()
        with path.open("r+b") as stream:
            content = stream.read()
            stream.truncate(content.rfind(b"\n") + 1)
        try:
            with path.open(encoding="utf-8", newline="") as text:
                rows = list(_read_csv(text) if form == "csv" else map(Row.model_validate_json, text))
        except (ValueError, KeyError, csv.Error):  # of pydantic, too
            raise VitquantError(f"{path} holds no rows of this command in {form}: name another file") from None
        for row in rows:
            if (row.artifact, len(row.classes)) != (self._digest, self._top):
                raise VitquantError(
                    f"{path} holds rows of another artifact, or with {len(row.classes)} classes: name another file"
                )
        return {row.file for row in rows}

    def write(self, row: Row, stream: TextIO, form: Format) -> None:
        """Add a row."""
        if form == "jsonl":
            stream.write(json.dumps(row.model_dump(), ensure_ascii=False) + "\n")
        else:
            csv.writer(stream, lineterminator="\n").writerow(_flat(row).values())
        stream.flush()

    @contextmanager
    def open(self, out: Path | None, form: Format) -> Iterator[TextIO]:
        """The file to add rows to, or standard output; CSV's heading is there then."""
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
        with (
            out.open("a", encoding="utf-8", errors="backslashreplace", newline="")
            if out
            else nullcontext(sys.stdout) as stream
        ):
            if form == "csv" and not (out and stream.tell()):
                empty = Row(file="", recipe="", artifact="", classes=[""] * self._top, probabilities=[0] * self._top)
                stream.write(",".join(_flat(empty)) + "\n")
            yield stream


def table(rows: Iterable[Row]) -> str:
    """Rows for a terminal."""
    lines = [[printable(row.file), *(f"{printable(name)} {share:.1%}" for name, share in _pairs(row))] for row in rows]
    return tabulate(lines, tablefmt="plain", disable_numparse=True)


def _pairs(row: Row) -> list[tuple[str, float]]:
    return list(zip(row.classes, row.probabilities, strict=True))


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"file": row.file, "recipe": row.recipe, "artifact": row.artifact}
    for number, (name, share) in enumerate(_pairs(row), start=1):
        flat |= {f"class_{number}": name, f"probability_{number}": share}
    return flat


def _read_csv(text: TextIO) -> Iterable[Row]:
    reader = csv.DictReader(text, strict=True)
    top = sum(name.startswith("class_") for name in reader.fieldnames or ())
    for line in reader:
        if None in line or None in line.values():
            raise ValueError("a row has another number of columns than the heading")
        numbers = range(1, top + 1)
        yield Row(
            file=line["file"],
            recipe=line["recipe"],
            artifact=line["artifact"],
            classes=[line[f"class_{number}"] for number in numbers],
            probabilities=[float(line[f"probability_{number}"]) for number in numbers],
        )
