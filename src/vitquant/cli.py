"""The `vitquant` command: one subcommand per stage of dvc.yaml, and what people run by hand."""

import io
import signal
import sys
from pathlib import Path
from typing import Any

import click

from vitquant.commands import (
    bundle,
    check,
    diff,
    draws,
    drift,
    experiment,
    loadtest,
    monitor,
    outliers,
    predict,
    recalibrate,
    recommend,
    repro,
    serve,
    serving,
    study,
    summary,
)
from vitquant.errors import VitquantError, describe_os_error, printable
from vitquant.stages import (
    baseline,
    benchmark,
    benchmark_cuda,
    evaluate,
    fetch,
    inputs,
    machine,
    prepare,
    profile,
    quantize,
    report,
    tails,
)


class Commands(click.Group):
    """A group whose commands end with one line on stderr, not a traceback, when the user can mend it."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        """The stages, then what people run by hand, with the first sentence of each in full."""
        for title, modules in (("Stages", STAGES), ("Commands", COMMANDS)):
            commands = [each.command for each in modules]
            with formatter.section(title):
                formatter.write_dl([(command.name, command.get_short_help_str(limit=999)) for command in commands])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; exit code 1 for an error of the study's, 2 for one in the arguments."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # its encoding may lack what tables and names hold
        interrupted = _note_interrupts()
        try:
            return super().invoke(ctx)
        except Exception as error:
            if interrupted:  # what a library in the middle of something makes of it
                raise click.Abort from error
            if isinstance(error, VitquantError | OSError):  # which the user can mend
                said = describe_os_error(error) if isinstance(error, OSError) else error
                raise click.ClickException(printable(said)) from error
            raise


def _note_interrupts() -> list[int]:
    """A list that fills with the interrupts (Ctrl-C) to come; they are raised as before."""
    noted: list[int] = []

    def interrupt(number: int, _: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return noted


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


STAGES = (
    *(machine, inputs, fetch, prepare, baseline, quantize, evaluate, benchmark, benchmark_cuda, profile, tails),
    report,
)
COMMANDS = (
    *(check, repro, summary, recommend, diff, draws, outliers, drift, study, experiment, bundle),
    *(predict, serve, loadtest, serving, monitor, recalibrate),
)
for module in (*STAGES, *COMMANDS):
    main.add_command(module.command)
