"""`vitquant loadtest`: how a server does under load."""

from pathlib import Path
from typing import Any

import click

from vitquant.commands.common import Number


@click.command("loadtest")
@click.argument("url")
@click.option(
    "--images",
    "places",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Image files and folders to send; repeatable.",
)
@click.option("--clients", type=click.IntRange(1), help="A closed loop of so many clients. [default: 4]")
@click.option("--rate", type=Number(0, min_open=True), help="An open loop: requests a second, at random.")
@click.option("--seconds", type=Number(0, min_open=True), default=30.0, show_default=True, help="How long.")
@click.option(
    "--send", "kind", type=click.Choice(["files", "pixels"]), default="files", show_default=True, help="Or decoded."
)
@click.option("--each", type=click.IntRange(1), default=1, show_default=True, help="Images in a request.")
@click.option("--timeout", type=Number(0, min_open=True), default=30.0, show_default=True, help="Of an answer.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the open loop's times.")
@click.option("--out", type=click.Path(path_type=Path), help="A JSON file to write the result to.")
def command(
    url: str,
    places: tuple[Path, ...],
    clients: int | None,
    rate: float | None,
    seconds: float,
    kind: Any,
    each: int,
    timeout: float,
    seed: int,
    out: Path | None,
) -> None:
    """Send images to the server at URL, and print throughput, latency, errors, and which recipe answered.

    A closed loop finds the capacity; an open loop shows latency at a rate, from the time that a request was to be sent.
    """
    import asyncio

    from vitquant import files
    from vitquant.errors import VitquantError
    from vitquant.serving import many

    try:
        from vitquant.serving import loads, loadtest
    except ImportError as error:
        raise VitquantError(f"{error.name} is not installed: pip install 'vitquant[serve]', or `make setup`") from None
    if clients and rate:
        raise VitquantError("--clients is of a closed loop and --rate of an open one: give one of them")
    clients = None if rate else clients or 4
    target = loadtest.Target(url, many.find(places), kind, each, timeout)
    run = target.open(rate, seconds, seed) if rate else target.closed(clients or 1, seconds)
    load = loads.summarize(asyncio.run(run), seconds, each, clients, rate)
    if out:
        files.write_json(out, load.model_dump())
    click.echo(loads.text(load))
