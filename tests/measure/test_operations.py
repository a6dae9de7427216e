import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import write_study_of_fp32

from vitquant import recipes
from vitquant.data.prepared import Prepared
from vitquant.measure import operations, profiler
from vitquant.params import Params, Recipe


def test_the_time_of_each_kind(params: Params, prepared: Prepared, fp32: Path, tmp_path: Path) -> None:
    chosen = {
        **params.recipes,
        "fused": Recipe.model_validate({"method": "floating_point", "dtype": "float32", "compile": True}),
        "mine": Recipe.model_validate({"method": "int8_weight_only"}),
    }
    for name, recipe in chosen.items():
        recipes.build(name, recipe, fp32, tmp_path / name, np.zeros((1, 64, 64, 3), np.uint8))
    profile = operations.profile([tmp_path / name for name in chosen], prepared.path, threads=2, max_slowdown=1e9)
    assert list(profile.recipes) == ["fp32", "dynamic-int8", "mine"]  # the eager ones
    assert profile.environment.threads == 2
    for times in profile.recipes.values():
        assert list(times) == list(profiler.KINDS)
        assert all(time > 0 for time in times.values())


def test_on_a_cpu_the_profile_s_command_says_nothing(fp32: Path, prepared: Prepared, tmp_path: Path) -> None:
    write_study_of_fp32(tmp_path, fp32)
    command = [sys.executable, "-c", "from vitquant.cli import main; main()", "profile"]
    command += ["--artifacts", "artifacts", "--data", str(prepared.path), "--out", "profile.json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
