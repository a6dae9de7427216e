"""A bundle: an artifact of vitquant-int8 packed and compiled, in a folder that runs where NumPy is, without a compiler.

It holds the packed network, the library, run.py, and bundle.json: what run.py must know, and the others' SHA-256.
"""

import platform
import shutil
from pathlib import Path

from vitquant import files
from vitquant.artifact import Artifact
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.runtime import classifier
from vitquant.runtime.library import Library

V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
V4 = (*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
TARGETS = (  # the compiler's arguments, and the CPU's flags, as Linux names them, that this code needs; the best first
    (("-march=x86-64-v4", "-mavx512vnni"), (*V4, "avx512_vnni")),
    (("-march=x86-64-v3",), V3),
)
FACTS = "bundle.json"
RUN = Path(__file__).with_name("run.py")
CPUINFO = Path("/proc/cpuinfo")


def write(artifact: Artifact, out: Path) -> None:
    """Make the bundle `out`, whole or not at all; an earlier bundle there is replaced.

    Args:
        artifact: of vitquant-int8, made for this CPU.

    Raises:
        VitquantError: it is of another method, or damaged; or `out` is there, and no bundle.
        UnsupportedError: this CPU is none that bundles are made for, or there is no compiler.
    """
    classifier.check(artifact)
    if out.exists() and not (out / FACTS).is_file():
        raise VitquantError(f"{out} is there, and is no bundle: name a new folder")
    target, needed = _target()
    library = Library(target)
    packed = classifier.read(artifact, library)
    whole, addresses = packed.image()
    its, spec = packed.description, artifact.spec
    if its.classes != len(spec.classes):
        raise UnsupportedError("bundles are for classifiers that read the class token: this one reads patches alone")
    with files.atomic(out) as partial:
        partial.mkdir()
        whole.tofile(partial / "network.bin")
        shutil.copyfile(library.path, partial / "library.so")
        shutil.copyfile(RUN, partial / "run.py")
        content = {
            "recipe": spec.recipe,
            "artifact_sha256": artifact.sha256,
            "needs": needed,
            "addresses": addresses,
            "side": its.side,
            "width": its.width,
            "mean": spec.preprocessing.mean,
            "std": spec.preprocessing.std,
            "classes": spec.classes,
            "files": {file.name: files.sha256(file) for file in sorted(partial.iterdir())},
        }
        files.write_json(partial / FACTS, content)


def _target() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of TARGETS, the best that this CPU can run."""
    flags = next((line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), "").split()
    for target, needed in TARGETS:
        if set(needed) <= set(flags):
            return target, needed
    raise UnsupportedError(f"bundles are for x86-64 CPUs with AVX2: this one, {platform.machine()}, lacks it")
