"""What the stage scripts share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vitquant.params import Params, load


def path_option(name: str, help: str) -> Callable[[Any], Any]:
    """A required `--name PATH` option."""
    return click.option(name, type=click.Path(path_type=Path), required=True, help=help)


def read_params(context: click.Context) -> Params:
    """params.yaml, whole and valid but for the options of the recipes."""
    return load(context.find_root().params["params"])
