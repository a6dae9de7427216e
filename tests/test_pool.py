from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from vitquant.errors import UnsupportedError
from vitquant.pool import calls_at_once, one_core_each, split


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


def test_a_split_batch_gives_each_core_its_own_images() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    sizes: list[int] = []
    seen: set[tuple[int, int, bool]] = set()

    def load() -> Callable[[Tensor], Tensor]:
        loaded = torch.get_num_threads(), calls_at_once()
        assert loaded == (1, 3)

        def function(part: Tensor) -> Tensor:
            sizes.append(len(part))
            seen.add((torch.get_num_threads(), calls_at_once(), torch.is_inference_mode_enabled()))
            return 2 * part

        return function

    try:
        forward, images = split(load), torch.arange(14.0).view(7, 2)
        assert torch.equal(forward(images), 2 * images)
        assert sorted(sizes) == [2, 2, 3]
        assert torch.equal(forward(images[:2]), 2 * images[:2])
        assert sorted(sizes[3:]) == [1, 1]
        assert seen == {(1, 3, True)}
        assert (torch.get_num_threads(), calls_at_once()) == (3, 1)
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_part_comes_out_as_it_is_and_the_next_batch_runs() -> None:
    def function(part: Tensor) -> Tensor:
        if part.isnan().any():
            raise UnsupportedError("no number")
        return part

    forward, images = split(lambda: function), torch.ones(4, 1)
    with pytest.raises(UnsupportedError, match="^no number$"):
        forward(torch.full((4, 1), torch.nan))
    assert torch.equal(forward(images), images)
