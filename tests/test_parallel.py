import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from vitquant.parallel import one_core_each


def test_each_thread_has_one_core_and_others_keep_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_core_each(2) as pool:
            assert list(pool.map(lambda _: torch.get_num_threads(), range(8))) == [1] * 8
            assert torch.get_num_threads() == 3
            with ThreadPoolExecutor(1) as other:  # a thread that PyTorch has not seen
                assert other.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


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
map_batches(function, images, Evaluate(batch_size=1, cuda_batch_size=1, workers=0), CPU, 2, "counting")
print(max(counts) - before)
"""
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert int(result.stdout) <= 3  # the pool's two, and the progress bar's
