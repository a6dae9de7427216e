"""What lies in the cache is run: it must be this user's own, and nothing is written through a link."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vitquant import artifact, files, recipes
from vitquant import cache as compiled_code
from vitquant.engines import inductor
from vitquant.errors import VitquantError
from vitquant.recipes import compiled
from vitquant.runtime.library import Library

from .examples import Built


def writable(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o022)


def another_users(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


def a_link(path: Path) -> None:
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other)


SPOILED = pytest.mark.parametrize(
    ("spoil", "problem"),
    [(writable, "may be written by other users"), (another_users, "belongs to user 12345"), (a_link, "is a link")],
)
Spoil = Callable[[Path], None]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_folders_are_made_private_whatever_the_umask(own: Path) -> None:
    before = os.umask(0)
    try:
        place = compiled_code.path("x")
        compiled_code.for_inductor()
    finally:
        os.umask(before)
    folders = [own, place.parent, own / "inductor"]
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700] * 3


@pytest.mark.parametrize(("spoil", "problem"), SPOILED.args[1][:2])
def test_a_cache_of_others(own: Path, spoil: Spoil, problem: str) -> None:
    compiled_code.path("x")
    spoil(own)
    with pytest.raises(VitquantError, match=f"cache {problem}, whose code would run as user .*: delete it, or set"):
        compiled_code.path("x")


def test_a_link_to_the_whole_cache_is_the_persons_own(own: Path) -> None:
    files.cache_root()
    a_link(own)
    assert files.cache_root() == own.with_name("elsewhere")


@SPOILED
def test_compiled_native_code_of_others_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, problem: str
) -> None:
    library = Library().path
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "cache"))
    own = compiled_code.path("x").with_name(library.name)
    shutil.copy(library, own)
    assert Library().path == own
    spoil(own)
    with pytest.raises(VitquantError, match=rf"\.so {problem}, whose code would run"):
        Library()


@SPOILED
def test_a_compiled_model_of_others_is_not_loaded(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, problem: str
) -> None:
    path = built("compiled-fp32")
    folder = inductor.cache_folder(artifact.open_artifact(path), compiled.module)
    monkeypatch.setenv("VITQUANT_CACHE", str(tmp_path / "cache"))
    own = inductor.cache_folder(artifact.open_artifact(path), compiled.module)
    shutil.copytree(folder, own)
    recipes.load(path)
    spoil(own / inductor.LIBRARY)
    with pytest.raises(VitquantError, match=f"{inductor.LIBRARY} {problem}, whose code would run"):
        recipes.load(path)


@SPOILED
def test_locks_are_not_taken_through_links(own: Path, tmp_path: Path, spoil: Spoil, problem: str) -> None:
    victim = compiled_code.path("x").with_suffix(".lock")
    victim.write_text("precious")
    victim.chmod(0o600)
    spoil(victim)
    with pytest.raises(VitquantError, match=rf"\.lock {problem}"), compiled_code.lock(compiled_code.path("x")):
        pass
    assert victim.read_text() == "precious"
