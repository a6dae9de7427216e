"""The two ways in which a stage ends early; the command line turns each into one line on stderr."""

import errno
import os

MAKE_AGAIN = "make it again with `dvc repro`, or vitquant.quantize"  # what an artifact that is damaged needs
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # which some scripts and emoji need to be right


class VitquantError(Exception):
    """Something the user can mend; the message names the file, key or value, and the mend."""


class UnsupportedError(VitquantError):
    """A recipe cannot run on this machine; it is reported as unavailable and the others go on."""


def printable(text: object) -> str:
    """Text that is not ours on one line: what a terminal would obey, or what hides or turns other text, is escaped."""
    return "".join(_printable(character) for character in str(text))


def _printable(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")


def describe_os_error(error: OSError) -> str:
    """What failed, and where; of a full disk also where that may be, for most libraries do not say."""
    place = f"{error.filename}: " if error.filename else ""
    message = f"{place}{error.strerror or error}"
    if error.filename or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return message
    temporary = os.environ.get("TMPDIR", "/tmp")
    cache = os.environ.get("VITQUANT_CACHE", "~/.cache/vitquant")
    return (
        f"{message}: make room where the results go, in {temporary} (or set TMPDIR to another folder), "
        f"and in {cache} (or set VITQUANT_CACHE)"
    )
