"""Options that do not go together are refused when params.yaml is read."""

import pytest
from pydantic import ValidationError

from vitquant import recipes


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("floating_point", {"dtype": "float16", "compile": False, "whole": True}, "whole: true is for compile: true"),
        (
            "eight_bit",
            {"weights": "float8", "activations": "dynamic", "dtype": "float16"},
            "weights: float8 with dynamic activations needs dtype: bfloat16",
        ),
        ("vitquant_gpu", {"format": "bfloat16", "scales": "dynamic"}, "format: bfloat16 has no scales"),
    ],
)
def test_options_that_do_not_go_together(method: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        recipes.method(method).Options.model_validate(options)
