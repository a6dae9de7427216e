"""`vitquant monitor`: what the log of a server says."""

from pathlib import Path

import click


@click.command("monitor")
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="CSV of some images: id,label.")
@click.option("--fp32", type=click.Path(path_type=Path), metavar="DIR", help="Its artifact. [default: the log's]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("monitor.html"), show_default=True)
def command(log: Path, labels: Path | None, fp32: Path | None, out: Path) -> None:
    """Read LOG, which `vitquant serve --shadow --log` writes, make a page of it, and print the verdict on one line."""
    from vitquant.report import monitor

    click.echo(monitor.report(log, labels, fp32, out))
