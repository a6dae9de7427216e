"""`vitquant serving`: what the server does under load, with the study's artifacts, on this machine."""

from pathlib import Path

import click


@click.command("serving")
@click.option(
    "--recipe",
    "names",
    multiple=True,
    default=("vitquant-int8", "openvino-int8-static", "fp32"),
    show_default=True,
    help="A recipe; repeatable. The first is looked at most.",
)
@click.option("--fallback", default="fp32", show_default=True, help="The recipe that answers when the first cannot.")
@click.option(
    "--artifacts", type=click.Path(path_type=Path), default=Path("models/recipes"), show_default=True, help="Theirs."
)
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("data/processed"), show_default=True, help="The images."
)
@click.option("--brief", is_flag=True, help="Seconds instead of minutes: to see that it works, not to measure.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results/serving"), show_default=True, help="Where it goes."
)
def command(names: tuple[str, ...], fallback: str, artifacts: Path, data: Path, brief: bool, out: Path) -> None:
    """Start `vitquant serve` on the loopback, and measure throughput, latency and failures; `make repro` reports it."""
    from vitquant.errors import VitquantError
    from vitquant.results import form
    from vitquant.results.serving import FILE
    from vitquant.serving.plan import BRIEF, FULL

    try:
        from vitquant.serving import study
    except ImportError as error:
        raise VitquantError(f"{error.name} is not installed: pip install 'vitquant[serve]', or `make setup`") from None
    if fallback == names[0]:
        raise VitquantError(f"--fallback {fallback} is the recipe that may fail: name another")

    def say(what: str) -> None:
        click.echo(f"serving: {what}", err=True)

    found = study.measure(artifacts, data, names, fallback, BRIEF if brief else FULL, say)
    form.write(out / FILE, found)
    click.echo(f"{out / FILE} is written: `dvc repro report` reports it")
