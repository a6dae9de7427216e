"""Of this folder alone: test_kernels.py runs its checks without the other tests' fixtures."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test has the same random values, whichever run before it."""
    torch.manual_seed(0)
