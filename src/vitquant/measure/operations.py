"""Where the time of a forward pass goes, by kind of operation, under PyTorch's profiler on the CPU.

Only eager PyTorch can be told apart so: a compiled graph fuses operations of several kinds into one.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vitquant import recipes
from vitquant.artifact import open_artifact
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError
from vitquant.measure import environment, slowness
from vitquant.measure.profiler import by_kind
from vitquant.params import BASELINE
from vitquant.predictor import CPU
from vitquant.results.profile import Profile

BATCH = 8


def profile(artifacts: Sequence[Path], data: Path, threads: int, max_slowdown: float) -> Profile:
    """Profile all recipes but those that are compiled, cannot run here, or take `max_slowdown` times as long as the
    baseline.

    The times are those of the thread that calls the operators, without what they call in turn: their sum is
    the time of the pass. Recipes are profiled one after the other: the shares count, not the sums.
    """
    torch.set_num_threads(threads)
    images = Prepared(data).images("val")
    batch = np.array(images[np.arange(BATCH) % len(images)])
    results = {}
    baseline = recipes.load(next(path for path in artifacts if path.name == BASELINE))
    for path in artifacts:
        if open_artifact(path).spec.traits.execution != "eager":
            continue
        try:
            predictor = recipes.load(path)
            slowness.check(predictor, baseline, batch[:1], max_slowdown, threads)
        except UnsupportedError:
            continue
        inputs = predictor.preprocess(batch)
        predictor.forward(inputs)
        results[path.name] = by_kind(partial(predictor.forward, inputs), CPU, BATCH)
    return Profile(environment=environment.environment(threads=threads), batch=BATCH, recipes=results)
