import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.artifact import CPU
from vitquant.parallel import map_batches
from vitquant.params import Evaluate


def test_results_are_in_order_and_each_is_let_go_once_it_is_copied() -> None:
    """Were they kept, each would hold down what its thread has freed below it."""
    memories: list[weakref.ref[NDArray[np.float32]]] = []
    alive = []

    def function(batch: Tensor) -> Tensor:
        memory = batch.flatten(1).numpy() * np.float32(3)
        memories.append(weakref.ref(memory))
        alive.append(sum(reference() is not None for reference in list(memories)))
        return torch.from_numpy(memory)

    images = np.arange(200 * 4, dtype=np.uint8).reshape(200, 2, 2, 1)
    params = Evaluate(batch_size=3, cuda_batch_size=1, large_batch=5, workers=0)
    mapped = map_batches(function, images, params, CPU, 2, "multiplying")
    assert mapped.dtype == np.float32
    assert np.array_equal(mapped, images.reshape(200, 4) * np.float32(3))
    assert len(alive) == 67
    assert max(alive) <= 8  # four under way, the one that is copied, and what a thread has not yet let go


def test_the_int8_kernels_add_no_threads_to_those_of_the_pool() -> None:
    """Counted in a process of its own, in which nothing has run on several cores before."""
    script = """
import os
import numpy as np, torch
from vitquant.recipes.vitquant_int8.kernels import Kernels
from vitquant.parallel import CPU, map_batches
from vitquant.params import Evaluate
kernels, weight, counts = Kernels(), torch.ones(64), set()
torch.set_num_threads(2)
def function(batch):
    residual = batch.float().flatten(1, 2).repeat(1, 1, 64)
    kernels.add_norm(residual, None, None, weight, weight, 1e-6)
    counts.add(len(os.listdir("/proc/self/task")))
    return residual[:, 0]
images = np.zeros((12, 8, 8, 1), np.uint8)
before = len(os.listdir("/proc/self/task"))
map_batches(function, images, Evaluate(batch_size=1, cuda_batch_size=1, large_batch=5, workers=0), CPU, 2, "counting")
print(max(counts) - before)
"""
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert int(result.stdout) <= 3  # the pool's two, and the progress bar's
