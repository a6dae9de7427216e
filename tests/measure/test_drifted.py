"""Images with another light, lens or camera: the stronger, the more they change, and the same every time."""

import numpy as np
import pytest
import torch

from vitquant.measure.drifted import drifted
from vitquant.results.drift import CLEAN, KINDS, STRENGTHS, Kind

IMAGES = np.random.default_rng(0).integers(40, 120, (2, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stronger_the_more_they_change(kind: Kind) -> None:
    state = torch.get_rng_state()
    found = [drifted(IMAGES, kind, strength, 0) for strength in STRENGTHS[kind]]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(each.dtype == np.uint8 and each.shape == IMAGES.shape for each in found)
    changes = [np.abs(each.astype(int) - IMAGES).mean() for each in found]
    assert 0 < changes[0] < changes[1] < changes[2]
    assert np.array_equal(drifted(IMAGES, kind, STRENGTHS[kind][0], 0), found[0])


def test_a_cast_is_of_red_and_blue_and_clean_is_clean() -> None:
    cast = drifted(IMAGES, "colour", 0.5, 0).astype(int)
    assert np.array_equal(cast[..., 1], IMAGES[..., 1])
    assert np.abs(cast[..., 0] - 1.5 * IMAGES[..., 0]).max() <= 1
    assert np.abs(cast[..., 2] - 0.5 * IMAGES[..., 2]).max() <= 1
    assert drifted(IMAGES, CLEAN, 0, 0) is IMAGES
