"""The cache and the calls, with a module that compiles in a few seconds; the recipes' tests compile whole models."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitquant import artifact
from vitquant import cache as compiled_code
from vitquant.artifact import Artifact
from vitquant.engines import inductor
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.predictor import write_weights

WIDTH = 7  # of the output; the artifact has 6 classes


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 3 * WIDTH).reshape(WIDTH, 3), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.linear(images.sigmoid().mean(dim=(2, 3)), self.weight)


def small(opened: Artifact) -> nn.Module:
    return Small()


def never(opened: Artifact) -> nn.Module:
    raise AssertionError("compiled again")


def interrupted(opened: Artifact) -> nn.Module:
    module = Small()
    module.register_forward_pre_hook(interrupt)
    return module


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def opened(fp32: Path) -> Artifact:
    return artifact.open_artifact(fp32)


@pytest.fixture(scope="module")
def library(opened: Artifact) -> inductor.Library:
    return inductor.load(opened, small)


def photographs(number: int) -> Tensor:
    return torch.rand(number, 3, 64, 64, generator=torch.Generator().manual_seed(number))


@pytest.mark.parametrize("number", [1, 2, 8, 33])
def test_every_batch_size_gives_what_the_module_gives(library: inductor.Library, number: int) -> None:
    images = photographs(number)
    outputs = library(images)
    assert (outputs.shape, outputs.dtype) == ((number, WIDTH), torch.float32)
    assert torch.allclose(outputs, Small()(images), atol=1e-6)


def test_images_that_are_not_contiguous(library: inductor.Library) -> None:
    images = photographs(2).to(memory_format=torch.channels_last)
    assert torch.equal(library(images), library(images.contiguous()))


def test_several_threads_give_what_one_gives(library: inductor.Library) -> None:
    batches = [photographs(number) for number in range(1, 25)]
    with torch.inference_mode():
        expected = [library(batch) for batch in batches]
    with ThreadPoolExecutor(6, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        assert all(map(torch.equal, pool.map(library, batches), expected))


def test_the_warm_cache_needs_no_module(opened: Artifact, library: inductor.Library) -> None:
    assert inductor.cache_folder(opened, never) == inductor.cache_folder(opened, small)  # one file, one key
    assert torch.equal(inductor.load(opened, never)(photographs(3)), library(photographs(3)))


def test_without_a_compiler_the_warm_cache_serves_and_the_cold_one_says_so(
    fp32: Path, library: inductor.Library, tmp_path: Path
) -> None:
    """In a process of its own: no compiler has been found in it before."""
    script = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_inductor as here
opened = here.artifact.open_artifact(Path(sys.argv[2]))
print(here.inductor.load(opened, here.never)(here.photographs(2)).tolist())
os.environ["VITQUANT_CACHE"] = sys.argv[3]
try:
    here.inductor.load(opened, here.small)
except here.UnsupportedError as reason:
    print(reason)
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(fp32), str(tmp_path)]
    environment = {**os.environ, "PATH": str(tmp_path)}
    environment.pop("CXX", None)
    outputs, reason = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert torch.equal(torch.tensor(json.loads(outputs)), library(photographs(2)))
    assert reason == "torch.compile needs a C++ compiler: install g++, or set CXX to one"
    assert [path.suffix for path in (tmp_path / "compiled").iterdir()] == [".lock"]


def test_an_interrupted_compilation_leaves_nothing(
    opened: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        inductor.load(opened, interrupted)
    assert [path.suffix for path in (tmp_path / "compiled").iterdir()] == [".lock"]


def test_the_key_is_of_weights_options_and_code(opened: Artifact, tmp_path: Path) -> None:
    other = tmp_path / "artifact"
    other.mkdir()
    write_weights(other, {"weight": torch.zeros(1)})
    artifacts = [
        opened,
        Artifact(other, opened.spec),
        Artifact(opened.path, opened.spec.model_copy(update={"options": {"bits": 4}})),
    ]
    folders = [inductor.cache_folder(each, small) for each in artifacts]
    folders.append(inductor.cache_folder(opened, inductor.load))  # defined in another file
    assert len(set(folders)) == len(folders)


def test_a_library_that_does_not_load(opened: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path))
    folder = inductor.cache_folder(opened, small)
    folder.mkdir()
    (folder / inductor.LIBRARY).write_text("nonsense")
    with pytest.raises(UnsupportedError, match=f"delete {folder}"):
        inductor.load(opened, small)


def test_a_cache_that_cannot_be_made(opened: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "file"))
    with pytest.raises(VitquantError, match="set VITQUANT_CACHE to a folder"):
        inductor.load(opened, small)


LOAD = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_inductor as here
opened = here.artifact.open_artifact(Path(sys.argv[2]))
try:
    print(here.inductor.load(opened, here.small)(here.photographs(2)).tolist())
except here.VitquantError as reason:
    print(reason)
"""


@pytest.mark.parametrize(("name", "survives"), [("a b", False), ("it's", False), ("line\nline", False), ("ü", True)])
def test_what_survives_a_command(tmp_path: Path, name: str, survives: bool) -> None:
    assert compiled_code.survives_a_command(tmp_path / name) == survives


@pytest.mark.parametrize(("cache", "temporary"), [("it's a\nline", "plain"), ("ü", "a b"), ("a b", "a b")])
def test_odd_characters_in_the_cache_s_or_the_temporary_folder_s_path(
    fp32: Path, tmp_path: Path, cache: str, temporary: str
) -> None:
    folders = {"VITQUANT_CACHE": tmp_path / "cache" / cache, "TMPDIR": tmp_path / "temporary" / temporary}
    for folder in folders.values():
        folder.mkdir(parents=True)
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-c", LOAD, str(Path(__file__).parent), str(fp32)]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    if cache == temporary:
        assert output.startswith("torch.compile cannot work in ")
        assert output.endswith("set VITQUANT_CACHE, or TORCHINDUCTOR_CACHE_DIR, to a folder without\n")
    else:
        assert torch.allclose(torch.tensor(json.loads(output)), Small()(photographs(2)), atol=1e-6)
        assert not list(tmp_path.rglob("*scratch*"))
