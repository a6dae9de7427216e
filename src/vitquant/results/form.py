"""What all files of results have in common: strict types, a version, and one line for a file that does not fit.

Versions of the files:

- 3: several launches of every recipe: latency, memory and how busy the machine was of each.
- 2: typed; samples and predictions of GPUs too; every statistic is made from these files afterwards.
- 1: without a version; the GPUs' files held estimates only. Of these `analysis.version_1` reads metrics.json.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitquant import files
from vitquant.errors import VitquantError
from vitquant.validation import describe

VERSION = 3
AGAIN = "measure again with `dvc repro`"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Form(BaseModel):
    """A part of a result: unknown keys, silently converted types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ResultFile(Form):
    """A whole file."""

    version: Literal[3] = 3


File = TypeVar("File", bound=ResultFile)


def write(path: Path, result: ResultFile) -> None:
    """Write a file of results; what is None, or empty where it may be, is left out."""
    files.write_json(path, dump(result))


def dump(result: ResultFile) -> dict[str, Any]:
    """What the JSON of a file of results holds."""
    return {"version": result.version, **result.model_dump(mode="json", exclude_defaults=True)}


def read(path: Path, kind: type[File], mend: str = AGAIN) -> File:
    """Read a file of results.

    Args:
        mend: what the message says to do.

    Raises:
        VitquantError: it is missing, not JSON, of another version, or has a key or value that does not belong there.
    """
    content = files.read_json(path)
    return parse(content, kind, str(path), mend)


def parse(content: Any, kind: type[File], name: str, mend: str = AGAIN) -> File:
    """What a file's JSON holds, typed.

    Args:
        content: the parsed JSON.
        name: what the message calls the file.
        mend: what the message says to do.

    Raises:
        VitquantError: as `read` does.
    """
    version = content.get("version", 1) if isinstance(content, dict) else None
    if version != VERSION:
        what = (
            f"has version {repr(version)[:20]} of the format" if isinstance(content, dict) else "is no file of results"
        )
        raise VitquantError(f"{name} {what}, this is vitquant with version {VERSION}: {mend}")
    try:
        return kind.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise VitquantError(f"{name}: {describe(error, content)}: {mend}") from None
