from functools import partial

import pytest
import torch
from torch import nn

from vitquant.engines import cuda_graph


def test_more_batch_sizes_than_pytorch_compiles_for_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the limit is the same
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    inputs = torch.rand(20, 4)
    expected = model(inputs)
    forward = cuda_graph.compile_blocks(model, model, torch.device("cpu"))
    for size in range(1, 21):
        assert torch.allclose(forward(inputs[:size]), expected[:size], atol=1e-6)
