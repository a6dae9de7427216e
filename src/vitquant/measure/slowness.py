"""Recipes that are far too slow on this machine to be measured in full: their first passes show it."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from vitquant.errors import UnsupportedError
from vitquant.params import BASELINE
from vitquant.predictor import Predictor

PASSES = 3  # of each, in turn; in the benchmark trials of each way, and rounds of what they show to be far too slow


def check(predictor: Predictor, baseline: Predictor, images: NDArray[np.uint8], limit: float, threads: int) -> None:
    """Time a few passes of both on the CPU, uint8 (N, H, W, 3), in turn; a recipe on a GPU is not looked at.

    Args:
        limit: times the baseline's time.
        threads: PyTorch's, which stay so.

    Raises:
        UnsupportedError: the recipe takes more than `limit` times what the baseline does.
    """
    if predictor.device.type != "cpu":
        return
    torch.set_num_threads(threads)
    pair = (predictor, baseline)
    for each in pair:
        _seconds(each, images)  # untimed: libraries set up what they need
    times = [[_seconds(each, images) for each in pair]]
    if times[0][0] > limit / 2 * times[0][1]:  # else it is clear
        times += [[_seconds(each, images) for each in pair] for _ in range(PASSES - 1)]
    ours, theirs = np.median(times, axis=0)
    if ours > limit * theirs:
        raise UnsupportedError(describe(ours / theirs, limit))


def describe(ratio: float, limit: float) -> str:
    """Why a recipe that took `ratio` times as long as the baseline is not measured in full."""
    return (
        f"too slow here: its first passes took {ratio:.0f} times as long as those of {BASELINE}; set max_slowdown, "
        f"now {limit:g}, higher to have it measured in full"
    )


def _seconds(predictor: Predictor, images: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    predictor(images)
    return time.perf_counter() - start
