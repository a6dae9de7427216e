"""What the commands share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

findings_option = click.option(
    "--findings",
    type=click.Path(path_type=Path),
    default=Path("results/findings.json"),
    show_default=True,
    help="The file of the run.",
)


class Number(click.FloatRange):
    """A number that is one: of NaN, which is in every range, and of infinity nothing can be made."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse both."""
        if not math.isfinite(found := super().convert(value, param, ctx)):
            self.fail(f"{value} is not a number.", param, ctx)
        return found


def artifact_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--artifact DIR`, or `--recommended` by `--findings`, which is the default."""
    options = (
        click.option("--artifact", type=click.Path(path_type=Path), metavar="DIR", help="The artifact."),
        click.option("--recommended", is_flag=True, help="The artifact that the study recommends: the default."),
        findings_option,
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Auto: a GPU.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen(artifact: Path | None, recommended: bool, findings: Path) -> Path:
    """The artifact that the options name.

    Raises:
        VitquantError: they name two, or the study recommends none.
    """
    from vitquant.errors import VitquantError
    from vitquant.serving import choice

    if artifact and recommended:
        raise VitquantError("--artifact and --recommended name two artifacts: give one of them")
    return artifact or choice.of_study(findings)
