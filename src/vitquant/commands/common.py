"""What the commands share."""

from pathlib import Path

import click

findings_option = click.option(
    "--findings",
    type=click.Path(path_type=Path),
    default=Path("results/findings.json"),
    show_default=True,
    help="The file of the run.",
)
