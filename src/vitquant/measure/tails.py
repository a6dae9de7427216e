"""The tails of one artifact's latency: many passes in a row, in a fresh process, with no other recipe loaded."""

from pathlib import Path

from vitquant.artifact import open_artifact
from vitquant.errors import UnsupportedError
from vitquant.measure import environment, session
from vitquant.measure.conditions import Watch
from vitquant.measure.worker import Worker
from vitquant.params import CpuBenchmark
from vitquant.predictor import CPU
from vitquant.results.tails import Tails, Timed


def run(artifact: Path, data: Path, params: CpuBenchmark, threads: int) -> Tails:
    """Time `params.tail_passes` passes at batch 1 on the CPU, after the untimed ones; or say why that cannot be.

    Raises:
        VitquantError: the artifact or the data is damaged.
    """
    opened = open_artifact(artifact)
    if opened.spec.unavailable:
        return Tails(unavailable=opened.spec.unavailable)
    worker = Worker(session.serve, artifact, data, params, threads, CPU)
    try:
        worker.receive()
        peak = worker.ask("warm_up", 1, params.warmup, False)
        if isinstance(peak, str):
            return Tails(unavailable=peak)
        watch = Watch()
        seconds = worker.ask("time_each", 1, params.tail_passes)
        conditions = watch.conditions()
    except UnsupportedError as reason:
        return Tails(unavailable=str(reason))
    finally:
        worker.close()
    timed = Timed(
        recipe=artifact.name,
        artifact_sha256=opened.sha256,
        environment=environment.environment(threads=threads),
        conditions=conditions,
        latency_ms=[round(1000 * each, 4) for each in seconds],
    )
    return Tails(timed=timed)
