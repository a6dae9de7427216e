"""Where the time of a forward pass goes, by kind of operation, under PyTorch's profiler on the CPU.

Only eager PyTorch can be told apart so: a compiled graph fuses operations of several kinds into one.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitquant import recipes
from vitquant.artifact import CPU
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError
from vitquant.measure import environment
from vitquant.measure.kernels import by_name

METHODS = ("fp32", "dynamic_int8", "dynamic_int8_smooth")  # the eager ones
BATCH = 8
KINDS = {  # the first whose word is in an operator's name
    "linear layers": ("linear", "addmm", "mm"),
    "attention": ("attention", "bmm", "softmax"),
    "GELU and norms": ("gelu", "layer_norm"),
}
REST = "rest"


def profile(artifacts: dict[str, Path], data: Path, threads: int) -> dict[str, Any]:
    """The content of results/profile.json: `environment`, `batch`, and `recipes`, name to milliseconds per image
    by kind of operation; a recipe that cannot run here is absent.

    The times are those of the thread that calls the operators, without what they call in turn: their sum is
    the time of the pass. Recipes are profiled one after the other: the shares count, not the sums.
    """
    torch.set_num_threads(threads)
    images = Prepared(data).images("val")
    batch = np.array(images[np.arange(BATCH) % len(images)])
    results = {}
    for name, path in artifacts.items():
        try:
            predictor = recipes.load(path)
        except UnsupportedError:
            continue
        inputs = predictor.preprocess(batch)
        predictor.forward(inputs)
        times = dict.fromkeys((*KINDS, REST), 0.0)
        for operator, milliseconds in by_name(partial(predictor.forward, inputs), CPU).items():
            times[kind(operator)] += milliseconds / BATCH
        results[name] = {key: round(time, 3) for key, time in times.items()}
    return {
        "environment": {
            **environment.machine(),
            "threads": threads,
            "git_commit": environment.git_commit() or "unknown",
        },
        "batch": BATCH,
        "recipes": results,
    }


def kind(operator: str) -> str:
    """The kind of an operator, by its name in the profile."""
    name = operator.removeprefix("aten::").removeprefix("quantized::")
    for key, words in KINDS.items():
        if any(word == name if word == "mm" else word in name for word in words):
            return key
    return REST
