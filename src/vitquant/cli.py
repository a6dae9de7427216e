"""The `vitquant` command: one subcommand per stage of dvc.yaml, and what people run by hand."""

from pathlib import Path
from typing import Any

import click

from vitquant.commands import check, diff, experiment, recommend, summary
from vitquant.errors import VitquantError
from vitquant.stages import (
    baseline,
    benchmark,
    benchmark_cuda,
    evaluate,
    fetch,
    machine,
    prepare,
    profile,
    quantize,
    report,
)


class Commands(click.Group):
    """A group whose commands end with one line on stderr, not a traceback, when the user can mend it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; exit code 1 for an error of the study's, 2 for one in the arguments."""
        try:
            return super().invoke(ctx)
        except VitquantError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}") from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vitquant")
@click.option(
    "--params",
    type=click.Path(path_type=Path),
    default=Path("params.yaml"),
    show_default=True,
    help="The study.",
)
def main(params: Path) -> None:  # the stages read it from the context
    """What post-training quantization does to a Vision Transformer, on this machine, with this data.

    The stages run under `dvc repro`, which reruns only what a change touches; dvc.yaml shows how each is called.
    """


STAGES = (machine, fetch, prepare, baseline, quantize, evaluate, benchmark, benchmark_cuda, profile, report)
COMMANDS = (check, summary, recommend, diff, experiment)
for module in (*STAGES, *COMMANDS):
    main.add_command(module.command)
