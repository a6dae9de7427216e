"""Another study as a DVC experiment, so that the committed one stays as it is.

A study file holds whole sections of params.yaml, which replace those of the same name. The experiment runs in
a directory of its own (`dvc exp run --temp`); its results are a commit that `dvc exp show` and `dvc exp diff`
read, and are copied out for reading.
"""

import json
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from vitquant import files, params, recipes
from vitquant.downloads import check_reachable
from vitquant.errors import VitquantError
from vitquant.models.vit import preprocessing


def run(study: Path, default: Path, changes: tuple[str, ...], destination: Path) -> Path:
    """Run the study; its results are copied to `destination`/<study's name>.

    Args:
        default: params.yaml.
        changes: further `key=value` settings, as `dvc exp run --set-param` takes them.

    Raises:
        VitquantError: the study or params.yaml is not valid, a host that it downloads from cannot be reached,
            or a stage failed.
    """
    name = study.stem
    current, sections = _read(default), _read(study)
    merged = {**current, **sections}
    wanted = params.validate(merged, study)
    preprocessing(wanted.model.name, wanted.data)  # now, not after minutes of work
    recipes.check(wanted)
    settings = [*_overrides(current, sections), *changes]
    for key, url in _urls(settings).items():
        check_reachable(url, key)  # now, not in the middle of a run
    command = ["dvc", "exp", "run", "--temp", "--force", "--name", name]
    for setting in settings:
        command += ["--set-param", setting]
    if subprocess.run(command, check=False).returncode:
        raise VitquantError(
            f"the study {name} did not finish: see the message above; params.yaml and results/ are as before"
        )
    return _copy_results(name, destination / name)


def _read(path: Path) -> dict[str, Any]:
    content = params.read_yaml(path)
    if not isinstance(content, dict):
        raise VitquantError(f"{path} must hold sections of params.yaml, such as model and data")
    return content


def _overrides(current: dict[str, Any], sections: dict[str, Any]) -> list[str]:
    """The settings that turn `current` into what the study's sections say."""
    settings = []
    for name, section in sections.items():
        if not isinstance(section, dict):
            settings.append(f"{name}={json.dumps(section)}")
            continue
        settings += [f"~{name}.{key}" for key in current.get(name, {}) if key not in section]
        settings += [f"++{name}.{key}={json.dumps(value)}" for key, value in section.items()]
    return settings


def _urls(settings: list[str]) -> dict[str, str]:
    """What the study downloads over the network, by key; a later setting counts."""
    pairs = [setting.lstrip("+~").partition("=") for setting in settings]
    values = {key: value.strip("\"'") for key, _, value in pairs}
    if values.get("head") != "imagenet1k":
        values.pop("model.head_url", None)
    return {key: value for key, value in values.items() if key.endswith("url") and value.startswith("http")}


def _copy_results(name: str, destination: Path) -> Path:
    refs = _git("for-each-ref", "--format=%(refname)", "refs/exps").decode().split()
    ref = next(ref for ref in refs if ref.endswith(f"/{name}"))
    with files.atomic(destination) as partial:
        partial.mkdir()
        with zipfile.ZipFile(BytesIO(_git("archive", "--format=zip", ref, "results"))) as archive:
            archive.extractall(partial)
    return destination


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout
