from pathlib import Path

import numpy as np
import pytest

from vitquant import recipes
from vitquant.data.prepared import Prepared
from vitquant.measure import operations
from vitquant.params import Params


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("quantized::linear_dynamic", "linear layers"),
        ("aten::addmm", "linear layers"),
        ("aten::mm", "linear layers"),
        ("aten::bmm", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::gelu", "GELU and norms"),
        ("aten::native_layer_norm", "GELU and norms"),
        ("aten::convolution", "rest"),
        ("aten::add", "rest"),
    ],
)
def test_operators_by_their_names(operator: str, kind: str) -> None:
    assert operations.kind(operator) == kind


def test_the_time_of_each_kind(params: Params, prepared: Prepared, fp32: Path, tmp_path: Path) -> None:
    artifacts = {}
    for name, recipe in params.recipes.items():
        artifacts[name] = tmp_path / name
        recipes.build(name, recipe, fp32, artifacts[name], np.zeros((1, 64, 64, 3), np.uint8))
    profile = operations.profile(artifacts, prepared.path, threads=2)
    assert list(profile["recipes"]) == ["fp32", "dynamic-int8"]
    assert profile["environment"]["threads"] == 2
    for times in profile["recipes"].values():
        assert list(times) == [*operations.KINDS, operations.REST]
        assert all(time > 0 for time in times.values())
