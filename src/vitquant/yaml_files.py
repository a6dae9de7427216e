"""YAML files, read as DVC reads them."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from vitquant import files
from vitquant.errors import VitquantError
from vitquant.urls import shown

DEEPEST = 20  # levels of a YAML file; a study has six
LONGEST = 3500  # characters of a value in it: whatever is written, a number then has fewer digits than Python prints


def read(path: Path) -> Any:
    """The parsed content of a YAML file.

    Raises:
        VitquantError: missing, not UTF-8, or not YAML.
    """
    try:
        return parse(path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        raise VitquantError(f"{path} is missing: run in the repository's root, or name another file") from None
    except UnicodeDecodeError as error:
        raise VitquantError(f"{path} is not UTF-8 (at byte {error.start}): save it as UTF-8") from None


def parse(text: str, name: str) -> Any:
    """YAML's content, as DVC reads it: version 1.2, where 1e-5 is a number.

    Raises:
        VitquantError: `name` is not YAML, or has aliases, of which a few lines can stand for billions of values, or is
            deeper or has longer values than any study.
    """
    name = shown(name)
    try:
        _check_plain(text, name)
        return _parser().load(text)
    except MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise VitquantError(f"{name} is not valid YAML: {place}{error.problem}") from None
    except (YAMLError, ValueError) as error:
        raise VitquantError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None


def _check_plain(text: str, name: str) -> None:
    """See that YAML is no larger than it looks, and no deeper than what reads it can go, before it is made values."""
    depth = 0
    for event in _parser().parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        place = f"{name}: line {event.start_mark.line + 1}"
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise VitquantError(f"{place}: anchors and aliases (&, *) are not taken: write the value out")
        if depth > DEEPEST:
            raise VitquantError(f"{place}: nested more than {DEEPEST} levels deep: a study's keys are not")
        if isinstance(event, ScalarEvent) and len(event.value) > LONGEST:
            raise VitquantError(f"{place}: a value of {len(event.value)} characters: shorten it to {LONGEST}")


def write(path: Path, content: Any) -> None:
    """Write what `read` reads as the same, keys in their order."""
    parser = _parser()
    parser.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel types it as None
    parser.default_flow_style = False
    with files.atomic(path) as partial, partial.open("w", encoding="utf-8") as stream:
        parser.dump(content, stream)


def _parser() -> YAML:
    return YAML(typ="safe", pure=True)
