"""The two ways in which a stage ends early; the command line turns each into one line on stderr."""

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
