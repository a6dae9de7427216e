"""OpenVINO runs in a process of its own, as in the study: if it crashes, a test fails and the others go on."""

import json
import os
import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
from conftest import without, without_home

from vitquant import artifact, recipes
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.predictor import read_weights

from .examples import EXAMPLES, Built, openvino
from .vision_transformer import BLOCKS

LAYERS = BLOCKS * 4  # qkv, proj, fc1 and fc2
INT8 = EXAMPLES["openvino-int8"].recipe


def test_a_model_that_another_thread_drops_leaves_signals_alive(built: Built) -> None:
    """OpenVINO's CPU plugin takes its stack for signals along; the next signal then killed the process."""
    program = f"""
import faulthandler, signal, subprocess, threading
from pathlib import Path
faulthandler.enable()  # on a stack for signals, as in pytest
from vitquant import recipes
models = [recipes.load(Path({str(built("openvino-fp32"))!r}))]
thread = threading.Thread(target=models.clear)
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: None)
subprocess.run(["true"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def constants(path: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, type and shape of what each node of the model gives, where the shape is known."""
    from vitquant.recipes.openvino import core  # here: the tests' own process never imports OpenVINO

    nodes = core().read_model(path / "model.xml").get_ops()
    fixed = [node for node in nodes if node.get_output_partial_shape(0).is_static]
    return [
        (node.get_friendly_name(), node.get_output_element_type(0).to_string(), tuple(node.shape)) for node in fixed
    ]


def test_every_linear_layer_but_the_head_has_a_scale_per_output_channel(
    process: Executor, fp32: Path, built: Built
) -> None:
    nodes = process.submit(constants, built("openvino-int8")).result()
    widths = sorted(shape for _, kind, shape in nodes if kind == "i8" and len(shape) == 2)
    floats = read_weights(fp32)
    linear = [name for name in floats if name.endswith((".qkv.weight", ".proj.weight", ".fc1.weight", ".fc2.weight"))]
    expected = [tuple(floats[name].shape) for name in linear if floats[name].ndim == 2]
    assert len(expected) == LAYERS
    assert sorted(map(sorted, widths)) == sorted(map(sorted, expected))
    assert [(kind, shape) for name, kind, shape in nodes if name == "head.weight"] == [
        ("f32", floats["head.weight"].shape)
    ]


def test_fp32_is_never_computed_in_another_type() -> None:
    with pytest.raises(VitquantError, match="recipes.r: precision: fp32 takes inference_precision: f32"):
        recipes.check_options("r", openvino("fp32", "auto"))


@pytest.mark.parametrize("missing", ["openvino", "nncf"])
def test_without_the_engine_the_artifact_is_unavailable(fp32: Path, tmp_path: Path, missing: str) -> None:
    assert without(missing, INT8, fp32, tmp_path / "r") == f"{missing} is not installed: pip install {missing}"
    with pytest.raises(UnsupportedError, match=f"{missing} is not installed"):
        recipes.load(tmp_path / "r")


def test_another_process_builds_the_same_bits_prints_nothing_calls_no_host_and_leaves_nothing(
    fp32: Path, calibration, built: Built, tmp_path: Path
) -> None:
    """By OpenVINO and NNCF, and ONNX Runtime beside them, imported, built and run; every call of a host is counted."""
    program = f"""
import json, sys
calls = []
sys.addaudithook(lambda event, args: calls.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from pathlib import Path
import numpy as np
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import recipes.vision_transformer
from vitquant import recipes
from vitquant.params import Recipe
images = np.load("calibration.npy")
for plain in {[INT8.model_dump(), EXAMPLES["onnxruntime-int8"].recipe.model_dump()]}:
    recipe = Recipe.model_validate(plain)
    recipes.build("r", recipe, Path({str(fp32)!r}), Path(recipe.method), images)
    recipes.load(Path(recipe.method))(images[:2])
Path("calls.json").write_text(json.dumps(calls))
"""
    home, temporary, work = places = [tmp_path / name for name in ("home", "temporary", "work")]
    for place in places:
        place.mkdir()
    np.save(work / "calibration.npy", calibration)
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(temporary)}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        environment.pop(name, None)
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work, env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert json.loads((work / "calls.json").read_text()) == []
    assert (work / "openvino/model.bin").read_bytes() == (built("openvino-int8") / "model.bin").read_bytes()
    assert list(home.rglob("*")) == []
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")] == []


def test_a_user_without_a_home_directory_lacks_nncf_and_learns_why(fp32: Path, tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
import numpy as np
from vitquant import recipes
from vitquant.params import Recipe
recipe = Recipe.model_validate({INT8.model_dump()})
recipes.build("r", recipe, Path({str(fp32)!r}), Path({str(tmp_path / "r")!r}), np.zeros((1, 64, 64, 3), np.uint8))
"""
    result = without_home(program, tmp_path / "cache")
    assert result.returncode == 0, result.stderr
    unavailable = artifact.open_artifact(tmp_path / "r").spec.unavailable
    assert unavailable
    assert unavailable.startswith("nncf does not load here: ")
