import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitquant.parallel import map_batches
from vitquant.params import Evaluate
from vitquant.predictor import CPU


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
