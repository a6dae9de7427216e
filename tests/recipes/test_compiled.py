from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from vitquant import recipes
from vitquant.artifact import Artifact, unfinished
from vitquant.predictor import read_weights, write_weights
from vitquant.recipes import compiled

from .examples import EXAMPLES


def test_bfloat16_is_the_backbone_s_and_the_head_stays_float32(fp32: Path, prepared, tmp_path: Path) -> None:
    floats, reference = read_weights(fp32), recipes.load(fp32)
    weights = compiled.cast(floats, torch.bfloat16)
    for name, tensor in weights.items():
        assert torch.equal(tensor, floats[name] if name.startswith("head.") else floats[name].bfloat16())
    write_weights(tmp_path, weights)
    images, options = prepared.images("val")[:5], compiled.Options(dtype="bfloat16")
    with torch.inference_mode():
        outputs = compiled.module(unfinished(reference.artifact.spec, tmp_path, "compiled", options))(
            reference.preprocess(images)
        )
    expected = reference.outputs(images)
    assert outputs.dtype == torch.float32
    assert np.abs(outputs.numpy() - expected).max() < 0.05 * np.abs(expected).max()


def test_interrupted_it_leaves_no_artifact(
    fp32: Path, calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the weights have been written, while it compiles."""

    def interrupt(opened: Artifact, dtype: torch.dtype) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "load_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        recipes.build("r", EXAMPLES["compiled-fp32"].recipe, fp32, tmp_path / "models" / "r", calibration)
    assert list((tmp_path / "models").iterdir()) == []
    assert [path.suffix for path in (tmp_path / "cache" / "compiled").iterdir()] == [".lock"]
