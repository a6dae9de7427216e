"""Another study as a DVC experiment, so that the committed one stays as it is.

A study file holds whole sections of params.yaml, which replace those of the same name. The experiment runs in a copy of
the repository, which has a params.yaml of its own; its results are a commit that `dvc exp show` and `dvc exp diff`
read, and are copied out for reading.
"""

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vitquant import files, inputs, params, progress, recipes, yaml_files
from vitquant.downloads import check_reachable
from vitquant.errors import VitquantError
from vitquant.models import vit
from vitquant.params import Params
from vitquant.urls import shown

FINDINGS = "findings.json"  # all that the report reads of another study
NAME = re.compile("(?!HEAD$)[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


def run(study: Path, default: Path, changes: tuple[str, ...], destination: Path) -> Path:
    """Run the study; its results are copied to `destination`/<study's name>.

    Args:
        default: params.yaml.
        changes: further settings, `key=value`; the value as in YAML, dots between the keys.

    Raises:
        VitquantError: the study or params.yaml is not valid, a host that it downloads from cannot be reached,
            or a stage failed.
    """
    name = study.stem
    if not NAME.fullmatch(name):
        raise VitquantError(
            f"{study}: {name!r} becomes the experiment's name: rename the file, with letters, digits, - and _ alone"
        )
    merged = merge(study, default, changes)
    wanted = params.validate(merged, study)
    inputs.check(wanted, default.with_name("dvc.yaml"))
    vit.check(wanted)  # now, not after minutes of work
    recipes.check(wanted, study)
    for key, url in _urls(wanted).items():
        check_reachable(url, key)  # now, not in the middle of a run
    with _copy() as copy:
        yaml_files.write(copy / default.name, merged)
        environment = os.environ | {"VITQUANT_CACHE": str(files.cache_root())}  # which may be relative to here
        times = default.with_name("studies") / "times.json"
        if progress.follow(["dvc", "exp", "run", "--name", name], wanted.study, times, copy, environment):
            raise VitquantError(
                f"the study {name} did not finish: see the message above; params.yaml and results/ are as before, and "
                "the stages that finished are kept for the next run"
            )
        ref = next(ref for ref in _git("for-each-ref", "--format=%(refname)", "refs/exps", cwd=copy).decode().split()
                   if ref.endswith(f"/{name}"))  # fmt: skip
        _git("fetch", "--quiet", str(copy), f"+{ref}:{ref}")
    return _copy_results(ref, destination / name)


def merge(study: Path, default: Path, changes: tuple[str, ...]) -> dict[str, Any]:
    """The parameters: sections of `study` instead of those of `default`, then `changes`; paths made absolute.

    Raises:
        VitquantError: a file is missing, not YAML or no mapping, or a change is not `key=value`.
    """
    merged = {**_read(default), **_read(study)}
    for change in changes:
        place, equals, value = change.partition("=")
        *parents, key = place.split(".")
        section: Any = merged
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not equals or not key or not isinstance(section, dict):
            raise VitquantError(f"--set {shown(change)}: give a key of params.yaml and its value, as in data.crop=224")
        section[key] = yaml_files.parse(value, f"--set {change}")
    for name, key in (("data", "path"), ("model", "path"), ("model", "classes")):
        section = merged.get(name)
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = str(Path(section[key]).absolute())
    return merged


def _read(path: Path) -> dict[str, Any]:
    content = yaml_files.read(path)
    if not isinstance(content, dict):
        raise VitquantError(f"{path} must hold sections of params.yaml, such as model and data")
    return content


def _urls(wanted: Params) -> dict[str, str]:
    """What the study downloads over the network, by key."""
    found: dict[str, str] = {}
    for name, section in (("model", wanted.model), ("data", wanted.data)):
        found |= {f"{name}.{key}": value for key, value in section if key.endswith("url") and value.startswith("http")}
    if wanted.head != "imagenet1k":
        found.pop("model.head_url", None)
    return found


@contextmanager
def _copy() -> Iterator[Path]:
    """A clone of the repository, with the work tree as it stands and DVC's cache, for as long as it is needed."""
    temporary = Path(_git("rev-parse", "--show-toplevel").decode().strip()) / ".dvc" / "tmp"
    temporary.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=temporary, prefix="study-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "repository"
        _git("clone", "--quiet", "--no-checkout", ".", str(copy))
        _git("reset", "--quiet", cwd=copy)
        listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode("utf-8", "surrogateescape")
        for name in filter(None, listed.split("\0")):
            if Path(name).is_symlink() or Path(name).is_file():  # else it is deleted
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(name, copy / name, follow_symlinks=False)
        cache = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
        if Path(".dvc/config.local").is_file():
            shutil.copy2(".dvc/config.local", copy / ".dvc/config.local")
        command = ["dvc", "cache", "dir", "--quiet", "--local", str(Path(cache).absolute())]
        subprocess.run(command, cwd=copy, check=True)
        yield copy


def _copy_results(ref: str, destination: Path) -> Path:
    with files.atomic(destination) as partial:
        partial.mkdir()
        with zipfile.ZipFile(BytesIO(_git("archive", "--format=zip", ref, "results"))) as archive:
            archive.extractall(partial)
    return destination


def publish(results: Path, destination: Path) -> None:
    """Copy the findings of a study that has run to `destination`, for the report of the committed one to show."""
    with files.atomic(destination / FINDINGS) as partial:
        shutil.copyfile(results / FINDINGS, partial)


def _git(*arguments: str, cwd: Path | None = None) -> bytes:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True, cwd=cwd).stdout
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise VitquantError(f"git {arguments[0]} failed: {said[-1]}") from None
