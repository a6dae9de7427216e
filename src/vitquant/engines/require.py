"""Engines that may be missing: the recipes that need one are then unavailable, and the study goes on."""

import importlib
from typing import Any

from vitquant.errors import UnsupportedError


def require(name: str) -> Any:
    """The installed package `name`, imported.

    Raises:
        UnsupportedError: it is not installed, or does not load on this machine.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise UnsupportedError(f"{name} is not installed: pip install {name}") from None
    except ImportError as error:
        raise UnsupportedError(f"{name} does not load here: {error}") from None
