"""A bundle: an artifact of vitquant-int8 packed and compiled, in a folder that runs where NumPy is, without a compiler.

It holds the packed network, the library, run.py, bundle.json, which has what run.py must know, and SHA256SUMS of these.
"""

import shutil
from pathlib import Path

from vitquant import files
from vitquant.artifact import Artifact
from vitquant.errors import VitquantError
from vitquant.runtime import classifier, targets
from vitquant.runtime.library import Library

RUN = Path(__file__).with_name("run.py")


def write(artifact: Artifact, out: Path) -> None:
    """Make the bundle `out`, a new folder, whole or not at all.

    Args:
        artifact: of vitquant-int8, made for this CPU.

    Raises:
        VitquantError: it is of another method, or damaged; or `out` is there, or would lie in the artifact.
        UnsupportedError: this CPU is none that bundles are made for, or there is no compiler.
    """
    classifier.check(artifact)
    if not artifact.spec.classes:
        raise VitquantError(f"{artifact.path} gives embeddings: bundles are for classifiers")
    if out.exists() or out.is_symlink():
        raise VitquantError(f"{out} is there already: name a new folder, or delete it")
    if artifact.path.resolve() in out.resolve().parents:
        raise VitquantError(
            f"{out} lies in the artifact {artifact.path}, which holds nothing else: name another folder"
        )
    target, needed = targets.best()
    library = Library(target)
    packed = classifier.read(artifact, library)
    whole, addresses = packed.image()
    its, spec = packed.description, artifact.spec
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
            "preprocessing": spec.preprocessing.model_dump(),
            "classes": spec.classes,
        }
        files.write_json(partial / "bundle.json", content)
        sums = [f"{files.sha256(file)}  {file.name}\n" for file in sorted(partial.iterdir())]
        (partial / "SHA256SUMS").write_text("".join(sums))
