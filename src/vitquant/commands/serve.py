"""`vitquant serve`: an artifact behind a web server."""

from pathlib import Path
from typing import Any

import click

from vitquant.commands.common import Number, artifact_options, chosen


def _whole(least: int = 1) -> click.IntRange:
    return click.IntRange(least)


def _positive(most: float) -> Number:
    return Number(0, most, min_open=True)


@click.command("serve")
@artifact_options
@click.option("--fallback", multiple=True, type=click.Path(path_type=Path), metavar="DIR", help="The next; repeatable.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address; it has no authentication.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--workers", type=_whole(), default=1, show_default=True, help="Processes that hold the artifact.")
@click.option("--threads", type=_whole(), help="Of a worker. [default: the cores, shared out]")
@click.option("--max-batch", type=_whole(), help="Images at once. [default: by the study's measurement]")
@click.option("--max-delay-ms", type=Number(0, 60_000), default=0, show_default=True, help="To fill a batch.")
@click.option("--queue", type=_whole(), default=32, show_default=True, help="Images that may wait.")
@click.option("--deadline-ms", type=_positive(3_600_000), default=10_000, show_default=True, help="Of an answer.")
@click.option("--max-images", type=click.IntRange(1, 1024), default=32, show_default=True, help="In a request.")
@click.option("--max-body-mb", type=_positive(1024), default=16, show_default=True, help="Of a request.")
@click.option("--max-megapixels", type=_positive(178), default=40, show_default=True, help="Of an image.")
@click.option("--grace", type=_positive(3600), default=20, show_default=True, help="Seconds to end in.")
@click.option(
    "--benchmark",
    type=click.Path(path_type=Path),
    default=Path("results/benchmark.json"),
    show_default=True,
    help="The study's measurement.",
)
@click.option("--shadow", type=Number(0, 1, min_open=True), help="The share of images that FP32 sees too; with --log.")
@click.option("--log", type=click.Path(path_type=Path), metavar="DIR", help="Where `vitquant monitor` reads.")
@click.option(
    "--fp32",
    type=click.Path(path_type=Path),
    default=Path("models/baseline"),
    show_default=True,
    help="The artifact to compare with.",
)
@click.option(
    "--agreement",
    type=Number(0, 100, min_open=True, max_open=True),
    metavar="PERCENT",
    help="Of images with FP32's class, below which to alarm. [default: the study's, of the recommended artifact]",
)
@click.option(
    "--probation",
    type=Number(0, 1e7),
    default=600,
    show_default=True,
    help="Seconds in which an alarm undoes a SIGHUP.",
)
@click.option("--log-images", type=_whole(0), default=0, show_default=True, help="To keep, of those that differ.")
@click.option(
    "--keep-images", type=click.Path(path_type=Path), metavar="DIR", help="For a sample of the images, to calibrate by."
)
@click.option("--keep", type=click.IntRange(1, 100_000), default=512, show_default=True, help="Images of it at most.")
def command(
    artifact: Path | None,
    recommended: bool,
    findings: Path,
    device: Any,
    fallback: tuple[Path, ...],
    host: str,
    port: int,
    workers: int,
    threads: int | None,
    max_batch: int | None,
    max_delay_ms: float,
    queue: int,
    deadline_ms: float,
    max_images: int,
    max_body_mb: float,
    max_megapixels: float,
    grace: float,
    benchmark: Path,
    shadow: float | None,
    log: Path | None,
    fp32: Path,
    agreement: float | None,
    probation: float,
    log_images: int,
    keep_images: Path | None,
    keep: int,
) -> None:
    """Serve an artifact by the Open Inference Protocol, version 2, with others to fall back on.

    There is no authentication: it belongs behind a gateway. docs/serving.md says more.
    """
    from vitquant import cpu
    from vitquant.errors import VitquantError
    from vitquant.serving import choice
    from vitquant.serving.server import serve
    from vitquant.serving.settings import Keeping, Settings, Shadowing

    if (shadow is None) != (log is None):
        raise VitquantError("--shadow, the share of images, and --log, a folder, go together: give both, or neither")
    if shadow is None and (agreement is not None or log_images):
        raise VitquantError("--agreement and --log-images do nothing without --shadow and --log: give those, too")
    cores = cpu.cores()
    settings = Settings(
        queue=queue,
        deadline=deadline_ms / 1000,
        workers=workers,
        threads=threads or max(1, cores // workers),
        max_delay=max_delay_ms / 1000,
        body_bytes=round(max_body_mb * 1e6),
        megapixels=max_megapixels,
        images=max_images,
        grace=grace,
        decoders=max(2, cores // 2),
        probation=probation,
    )
    paths = [chosen(artifact, recommended, findings), *fallback]
    shadowing = None
    if shadow is not None and log is not None:
        bounds = {} if artifact else choice.disagreements(findings)
        shadowing = Shadowing(shadow, log, fp32, None if agreement is None else 1 - agreement / 100, bounds, log_images)
    keeping = Keeping(keep_images, keep) if keep_images else None
    serve(paths, settings, max_batch, benchmark, device, host, port, shadowing, keeping)
