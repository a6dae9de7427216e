"""Stage `benchmark_cuda`: the CUDA half of the study, where there is a GPU."""

import os
from pathlib import Path

import click

from vitquant.errors import VitquantError
from vitquant.stages.common import path_option, read_params


@click.command("benchmark-cuda")
@path_option("--fp32", "The FP32 artifact.")
@path_option("--data", "The prepared data.")
@path_option("--out", "Folder with a JSON file per GPU; this GPU's is written, the others stay.")
@click.option("--busy-ok", is_flag=True, help="Go on though another process uses the GPU.")
@click.pass_context
def command(context: click.Context, fp32: Path, data: Path, out: Path, busy_ok: bool) -> None:
    """Measure latency, memory, energy and accuracy on the GPU, interleaved in one run."""
    from vitquant.measure import nvml

    params = read_params(context)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise VitquantError(f"{out} is not writable for user {os.getuid()}: nothing was measured; mend its permissions")
    reason = "device: cpu" if params.device == "cpu" else nvml.absent()
    if reason:
        click.echo(f"{reason}: kept {len(list(out.glob('*.json')))} earlier results")
        return
    if not busy_ok:
        nvml.check_idle()
    import torch

    from vitquant.cpu import threads
    from vitquant.data.prepared import Prepared
    from vitquant.measure import cuda_benchmark
    from vitquant.measure import cuda_results as results

    device, prepared = torch.device("cuda"), Prepared(data)
    results.check(out, torch.cuda.get_device_name())
    error = cuda_benchmark.quantize_dynamic_error(device)
    for study, artifact in cuda_benchmark.studies(params, fp32, prepared):
        measured, arrays = cuda_benchmark.run(artifact, prepared, study, threads(study.threads), device)
        file = results.add(out, error, measured, arrays)
        click.echo(f"{study.study}: written to {file}")
