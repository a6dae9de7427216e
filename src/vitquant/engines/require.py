"""Engines that may be missing: the recipes that need one are then unavailable, and the study goes on."""

import importlib
from typing import Any

from vitquant.errors import UnsupportedError


def require(name: str) -> Any:
    """The installed package `name`, or a module of one, imported.

    Raises:
        UnsupportedError: it is not installed, or does not load on this machine.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package's import may raise anything
        package = name.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise UnsupportedError(f"{package} is not installed: pip install {package}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedError(f"{package} does not load here: {reason}") from None
