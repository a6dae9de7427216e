"""Classify images with NumPy alone: `python run.py images.npy`, uint8 (N, side, side, 3), RGB, resized and cropped.

It prints a line per image, class and probability; from Python, `load()` gives a function from images to logits. How
images are resized and cropped stands in bundle.json, under `preprocessing`.
"""

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError:
    if __name__ == "__main__":
        sys.exit("run.py needs NumPy: pip install numpy")
    raise

HERE = Path(__file__).resolve().parent
MOST_THREADS = 1024  # libgomp ends the process where the system gives no more; Linux gives some 32,000 by default


def read_facts() -> dict[str, Any]:
    """The content of bundle.json, once the bundle's files are those that were made."""
    sums = HERE / "SHA256SUMS"
    lines = [line.partition("  ") for line in sums.read_text("utf-8").splitlines()]
    digests = {name: digest for digest, _, name in lines}
    for name in ("bundle.json", "library.so", "network.bin", "run.py"):
        if hashlib.sha256((HERE / name).read_bytes()).hexdigest() != digests.get(name):
            raise RuntimeError(f"{HERE / name} has changed since it was made: copy the bundle again")
    facts: dict[str, Any] = json.loads((HERE / "bundle.json").read_text("utf-8"))
    return facts


def load(threads: int | None = None) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A function from uint8 images (N, side, side, 3) to float32 logits (N, classes), on all cores or `threads`."""
    facts = read_facts()
    flags = Path("/proc/cpuinfo").read_text().partition("flags\t")[2].partition("\n")[0].split()
    if lacking := sorted(set(facts["needs"]) - set(flags)):
        raise RuntimeError(f"this CPU lacks {', '.join(lacking)}: make the bundle on one like it")
    count = len(os.sched_getaffinity(0)) if threads is None else threads
    if not isinstance(count, int) or not 1 <= count <= MOST_THREADS:
        raise ValueError(f"threads must be a whole number from 1 to {MOST_THREADS}, not {threads!r}")
    library = ctypes.CDLL(str(HERE / "library.so"))
    content = np.fromfile(HERE / "network.bin", np.uint8)
    memory = np.zeros(content.size + 64, np.uint8)
    network = memory[-memory.ctypes.data % 64 :][: content.size]  # whose address is a multiple of 64
    network[:] = content
    network.view(np.uint64)[np.array(facts["addresses"]) // 8] += np.uint64(network.ctypes.data)
    mean, std = (np.array(facts["preprocessing"][name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    side, classes = facts["side"], len(facts["classes"])

    def classify(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shape, dtype = np.shape(images), getattr(images, "dtype", type(images).__name__)
        if dtype != np.uint8 or shape[1:] != (side, side, 3) or not shape[0]:
            raise ValueError(f"give uint8 images of shape (N, {side}, {side}, 3), not {dtype} {shape}")
        pixels = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        pixels *= 1 / (255 * std)
        pixels -= mean / std
        outputs = np.empty((len(images), classes + facts["width"]), np.float32)
        addresses = (ctypes.c_void_p(array.ctypes.data) for array in (network, pixels, outputs))
        library.forward_images(*addresses, ctypes.c_int64(len(images)), ctypes.c_int(count))
        return outputs[:, :classes]

    return classify


def read_images(file: str) -> Any:
    """The array of a .npy file."""
    try:
        images = np.load(file, allow_pickle=False)
    except (ValueError, EOFError):
        images = None
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{file} is no .npy file of an array: make one with numpy.save")
    return images


def main(arguments: list[str]) -> None:
    """Print a line per image."""
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return
    if len(arguments) != 1:
        raise ValueError("give one file of images: python run.py images.npy")
    logits = load()(read_images(arguments[0]))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    names = read_facts()["classes"]
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for best, share in zip(logits.argmax(axis=1), odds.max(axis=1) / odds.sum(axis=1), strict=True):
        print(f"{names[best]}\t{share:.4f}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the lines has enough
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(str(error))
