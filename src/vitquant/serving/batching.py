"""How many images a worker is best given at once, by what the study measured of the artifact on this machine."""

from pathlib import Path

import numpy as np

from vitquant.artifact import Artifact
from vitquant.errors import VitquantError
from vitquant.measure.environment import machine
from vitquant.results import form
from vitquant.results.benchmark import Benchmark

GAIN = 1.1  # in throughput, from which on waiting for a whole batch is worth while
SPANS = "its activation scales span the batch, so that one client's image would change another's logits"
SAME = ("cpu", "isa", "cores")  # of two machines, for which one's times are the other's


def default(artifact: Artifact, benchmark: Path) -> tuple[int, str]:
    """The batch limit for an artifact, and why.

    Args:
        benchmark: the study's file, results/benchmark.json.
    """
    if artifact.spec.traits.batch_scales:
        return 1, SPANS
    try:
        found = form.read(benchmark, Benchmark)
    except (VitquantError, OSError):
        return 1, f"{benchmark} cannot be read, so that nobody knows whether batches help"
    recipe = found.recipes.get(artifact.spec.recipe)
    measured = recipe.measured if recipe else None
    if not measured or measured.artifact_sha256 != artifact.sha256 or 1 not in measured.latency_ms:
        return 1, f"{benchmark} is not of this artifact, so that nobody knows whether batches help"
    here = machine()
    if any(getattr(here, key) != getattr(found.environment, key) for key in SAME):
        return 1, f"{benchmark} was measured on another machine, so that nobody knows whether batches help here"
    speeds = {size: size / float(np.median(np.concatenate(launches))) for size, launches in measured.latency_ms.items()}
    best = max(speeds, key=lambda size: speeds[size])
    ratios = ", ".join(f"{size}: {speed / speeds[1]:.2f}" for size, speed in sorted(speeds.items()))
    said = f"throughput by batch size, over that of one image, as {benchmark} has it: {ratios}"
    return (best if speeds[best] >= GAIN * speeds[1] else 1), said
