"""The `vitquant` command: one subcommand per stage of dvc.yaml, and what people run by hand."""

import errno
import io
import os
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
    experiment,
    loadtest,
    predict,
    recommend,
    serve,
    study,
    summary,
)
from vitquant.errors import VitquantError, printable
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
                said = _describe(error) if isinstance(error, OSError) else error
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


def _describe(error: OSError) -> str:
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
COMMANDS = (check, summary, recommend, diff, draws, study, experiment, bundle, predict, serve, loadtest)
for module in (*STAGES, *COMMANDS):
    main.add_command(module.command)
