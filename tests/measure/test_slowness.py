"""A recipe is too slow if it takes more than a multiple of what FP32 does."""

import re
import time
from pathlib import Path

import pytest
from torch import Tensor

from vitquant import recipes
from vitquant.data.prepared import Prepared
from vitquant.errors import UnsupportedError
from vitquant.measure import slowness
from vitquant.predictor import Predictor


def delayed(predictor: Predictor, seconds: float) -> Predictor:
    """The same, but slow by construction."""

    def forward(inputs: Tensor) -> Tensor:
        time.sleep(seconds)
        return predictor.forward(inputs)

    return Predictor(predictor.artifact, forward)


def test_what_takes_a_multiple_is_named_and_the_limit_with_it(fp32: Path, prepared: Prepared) -> None:
    """The baseline sleeps too, so that the ratio, of sleeps, does not depend on the machine."""
    predictor, images = recipes.load(fp32), prepared.images("val")[:1]
    baseline, slow = delayed(predictor, 0.2), delayed(predictor, 1.2)
    slowness.check(slow, baseline, images, 12.0, 1)
    slowness.check(baseline, slow, images, 3.0, 1)
    with pytest.raises(UnsupportedError) as error:
        slowness.check(slow, baseline, images, 2.5, 1)
    assert re.fullmatch(
        "too slow here: its first passes took [56] times as long as those of fp32; set max_slowdown, now 2.5, higher "
        "to have it measured in full",
        str(error.value),
    )
