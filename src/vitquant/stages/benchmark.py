"""Stage `benchmark`: the speed, memory and size of all artifacts."""

from pathlib import Path

import click

from vitquant.stages.common import path_option, read_params


@click.command("benchmark")
@path_option("--artifacts", "Folder that holds the artifacts, one per recipe of params.yaml.")
@path_option("--data", "The prepared data.")
@path_option("--out", "The JSON file to write.")
@click.pass_context
def command(context: click.Context, artifacts: Path, data: Path, out: Path) -> None:
    """Measure latency, memory and size of every artifact on the CPU, interleaved in one run."""
    from vitquant.cpu import threads
    from vitquant.measure import cpu_benchmark
    from vitquant.results import form

    params = read_params(context)
    paths = [artifacts / name for name in params.recipes]
    form.write(out, cpu_benchmark.run(paths, data, params.benchmark, threads(params.threads), params.max_slowdown))
