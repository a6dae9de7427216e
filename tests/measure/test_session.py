"""What one artifact's process does when it is asked, on the CPU: which batches it predicts, how many of them."""

from pathlib import Path

import pytest
import torch

from vitquant.data.prepared import Prepared
from vitquant.measure.session import COPIES, Session
from vitquant.predictor import CPU

Batches = list[int]


@pytest.fixture
def session(fp32: Path, prepared: Prepared) -> Session:
    made = Session(fp32, prepared, CPU, most=4)
    assert isinstance(made.warm_up(4, 1, split=False), int)
    return made


def test_the_peak_of_memory_is_without_the_other_way_and_the_batches(session: Session) -> None:
    """So it hardly depends on what the process has run before, which loads the artifact a second time."""
    before = session.warm_up(1, 1, split=False)
    session.warm_up(3, 1, split=True)
    session._warm.clear()
    after = session.warm_up(1, 1, split=False)
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert abs(after - before) < session._taken[True] + 2**21  # pages that neither run gave back


@pytest.fixture
def batches(session: Session) -> Batches:
    """The size of each batch that is predicted."""
    seen: Batches = []
    model = session._predictor._forward
    assert isinstance(model, torch.nn.Module)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_one_pass_is_timed_after_a_smaller_one(session: Session, batches: Batches) -> None:
    assert session.time(4, 0.0, split=False) > 0
    assert batches == [1, 4]


def test_a_window_is_filled_with_whole_batches_after_untimed_ones(session: Session, batches: Batches) -> None:
    assert session.time(4, 0.1, split=False) > 0
    assert batches[0] == 1
    assert set(batches[1:]) == {4}
    assert len(batches) > 2


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_every_pass_is_counted_and_the_time_is_filled(session: Session, batches: Batches, seconds: float) -> None:
    passes, taken = session.repeat(4, seconds, split=False)
    assert batches == [4] * passes
    assert passes >= 1
    assert taken >= seconds


def test_copying_a_batch_is_timed(session: Session, batches: Batches) -> None:
    assert COPIES > 1
    assert session.copy(4) > 0
    assert batches == []
