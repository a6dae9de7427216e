"""Stage `machine`: the fingerprint that evaluate and benchmark depend on."""

from pathlib import Path

import click

from vitquant.stages.common import path_option


@click.command("machine")
@path_option("--out", "The JSON file to write.")
def command(out: Path) -> None:
    """Write this machine's fingerprint: host, CPU, cores, memory, library versions."""
    from vitquant import files
    from vitquant.measure import environment

    files.write_json(out, environment.machine().model_dump())
