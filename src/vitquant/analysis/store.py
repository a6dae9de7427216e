"""Findings as they are kept: results/findings.json of the work tree, or of a commit."""

import json
import subprocess
from pathlib import Path
from typing import Any

from vitquant import files
from vitquant.analysis import version_1, version_2
from vitquant.analysis.findings import Findings, Study
from vitquant.errors import VitquantError
from vitquant.params import BASELINE
from vitquant.results import form

FILE, FILE_OF_VERSION_1 = "results/findings.json", "results/metrics.json"
ANOTHER = "name another commit"


def read(path: Path) -> Findings:
    """Findings in a file.

    Raises:
        VitquantError: it is missing or unreadable, of another version, or not of a study that was timed.
    """
    return _parse(files.read_json(path), str(path), "make it again with `dvc repro`")


def at(revision: str) -> Study:
    """The study as it was committed in `revision`, by this version of vitquant or the one before.

    Raises:
        VitquantError: there is no such commit, or it has no such file, or none of a study that was timed.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").stdout.strip()
    if not commit:
        raise VitquantError(f"{revision}: git knows no such commit here: name another, such as HEAD~1")
    current = _git("show", f"{commit}:{FILE}")
    if current.returncode == 0:
        name = f"{revision}: {FILE} of that commit"
        return _parse(_json(current.stdout, name), name, ANOTHER).study
    before = _git("show", f"{commit}:{FILE_OF_VERSION_1}")
    if before.returncode:
        raise VitquantError(f"{revision}: that commit has neither {FILE} nor {FILE_OF_VERSION_1}: {ANOTHER}")
    name = f"{revision}: {FILE_OF_VERSION_1} of that commit"
    return _timed(version_1.convert(_json(before.stdout, name), name, ANOTHER), name, ANOTHER)


def _parse(content: Any, name: str, mend: str) -> Findings:
    if isinstance(content, dict) and content.get("version") == 2:  # noqa: PLR2004
        content = version_2.convert(content)
    findings = form.parse(content, Findings, name, mend)
    _timed(findings.study, name, mend)
    return findings


def _timed(study: Study, name: str, mend: str) -> Study:
    """The study, if it has what all that follows relies on: a baseline that was timed.

    Raises:
        VitquantError: it has not.
    """
    if BASELINE not in study.recipes or not study.baseline.speeds or not study.baseline.footprint:
        raise VitquantError(f"{name}: recipes.{BASELINE} was not timed: {mend}")
    return study


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VitquantError(f"{name} is not valid JSON ({error}): {ANOTHER}") from None


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False)
