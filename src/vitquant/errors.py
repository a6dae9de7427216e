"""The two ways in which a stage ends early; the command line turns each into one line on stderr."""


class VitquantError(Exception):
    """Something the user can mend; the message names the file, key or value, and the mend."""


class UnsupportedError(VitquantError):
    """A recipe cannot run on this machine; it is reported as unavailable and the others go on."""
