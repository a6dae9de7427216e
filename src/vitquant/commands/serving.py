"""`vitquant serving`: what the server does under load, with the study's artifacts, on this machine or its GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from vitquant.params import Params

CPU = ("vitquant-int8", "openvino-int8-static", "fp32")
CUDA = ("vitquant-int8", "bf16-compiled")


def _path(name: str, default: str, help: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.Path(path_type=Path), default=Path(default), show_default=True, help=help)


@click.command("serving")
@click.option(
    "--recipe",
    "names",
    multiple=True,
    help=f"A recipe; repeatable. The first is looked at most. [default: {', '.join(CPU)}; with cuda {', '.join(CUDA)}]",
)
@click.option("--fallback", help="The recipe that answers when the first cannot. [default: the last of those]")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Cuda: recipes of cuda.recipes, made of --fp32 first; there is a file for each GPU.",
)
@_path("--artifacts", "models/recipes", "The recipes', for the CPU.")
@_path("--fp32", "models/baseline", "The artifact that recipes for a GPU are made of.")
@_path("--data", "data/processed", "The images.")
@click.option("--brief", is_flag=True, help="Seconds instead of minutes: to see that it works, not to measure.")
@_path("--out", "results/serving", "Where it goes.")
@click.pass_context
def command(
    context: click.Context,
    names: tuple[str, ...],
    fallback: str | None,
    device: str,
    artifacts: Path,
    fp32: Path,
    data: Path,
    brief: bool,
    out: Path,
) -> None:
    """Start `vitquant serve` on the loopback, and measure throughput, latency and failures; `make repro` reports it."""
    from vitquant.errors import VitquantError
    from vitquant.results import form
    from vitquant.results.gpu import file_of
    from vitquant.results.serving import FILE
    from vitquant.serving.plan import BRIEF, FULL, on_gpu
    from vitquant.stages.common import read_params

    try:
        from vitquant.serving import study
    except ImportError as error:
        raise VitquantError(f"{error.name} is not installed: pip install 'vitquant[serve]', or `make setup`") from None
    usual = CUDA if device == "cuda" else CPU
    names, fallback = names or usual, fallback or usual[-1]
    if fallback == names[0]:
        raise VitquantError(f"--fallback {fallback} is the recipe that may fail: name another")

    def say(what: str) -> None:
        click.echo(f"serving: {what}", err=True)

    plan = BRIEF if brief else FULL
    if device == "cpu":
        file, found = out / FILE, study.measure(artifacts, data, names, fallback, "cpu", plan, say)
    else:
        with _for_gpu(read_params(context), {*names, fallback}, fp32, data) as folder:
            found = study.measure(folder, data, names, fallback, "cuda", on_gpu(plan), say)
        file = file_of(out, found.environment.gpu)
    form.write(file, found)
    click.echo(f"{file} is written: `dvc repro report` reports it")


@contextmanager
def _for_gpu(params: Params, names: set[str], fp32: Path, data: Path) -> Iterator[Path]:
    """A folder with artifacts of recipes for a GPU, until left.

    Raises:
        VitquantError: there is no GPU, or no such recipe.
    """
    from vitquant import recipes
    from vitquant.data.prepared import Prepared
    from vitquant.errors import VitquantError
    from vitquant.parallel import choose_device

    choose_device("cuda")
    if unknown := names - params.cuda.recipes.keys():
        raise VitquantError(f"params.yaml: cuda.recipes has no {min(unknown)}: it has {', '.join(params.cuda.recipes)}")
    calibration = Prepared(data).calibration(params.calibration)
    with TemporaryDirectory(prefix="vitquant-") as folder:
        for name in names:
            recipes.build(name, params.cuda.recipes[name], fp32, Path(folder) / name, calibration)
        yield Path(folder)
