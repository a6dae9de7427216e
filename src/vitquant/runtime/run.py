"""Classify images with NumPy alone: `python run.py images.npy`, uint8 (N, side, side, 3), RGB, resized and cropped.

It prints a line per image, class and probability; from Python, `load()` gives a function from images to logits.
"""

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
BUNDLE = json.loads((HERE / "bundle.json").read_text())


def load(threads: int | None = None) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A function from uint8 images (N, side, side, 3) to float32 logits (N, classes), on all cores or `threads`."""
    flags = Path("/proc/cpuinfo").read_text().partition("flags\t")[2].partition("\n")[0].split()
    if lacking := sorted(set(BUNDLE["needs"]) - set(flags)):
        raise RuntimeError(f"this CPU lacks {', '.join(lacking)}: make the bundle on one like it")
    for name, digest in BUNDLE["files"].items():
        if hashlib.sha256((HERE / name).read_bytes()).hexdigest() != digest:
            raise RuntimeError(f"{HERE / name} has changed since it was made: copy the bundle again")
    library = ctypes.CDLL(str(HERE / "library.so"))
    content = np.fromfile(HERE / "network.bin", np.uint8)
    memory = np.zeros(content.size + 64, np.uint8)
    network = memory[-memory.ctypes.data % 64 :][: content.size]  # whose address is a multiple of 64
    network[:] = content
    network.view(np.uint64)[np.array(BUNDLE["addresses"]) // 8] += np.uint64(network.ctypes.data)
    mean, std = (np.array(BUNDLE[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    cores = len(os.sched_getaffinity(0))
    side, classes = BUNDLE["side"], len(BUNDLE["classes"])

    def classify(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise ValueError(f"give uint8 images of shape (N, {side}, {side}, 3), not {images.dtype} {images.shape}")
        pixels = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        pixels *= 1 / (255 * std)
        pixels -= mean / std
        outputs = np.empty((len(images), classes + BUNDLE["width"]), np.float32)
        addresses = (ctypes.c_void_p(array.ctypes.data) for array in (network, pixels, outputs))
        library.forward_images(*addresses, ctypes.c_int64(len(images)), ctypes.c_int(threads or cores))
        return outputs[:, :classes]

    return classify


if __name__ == "__main__":
    try:
        logits = load()(np.load(sys.argv[1]))
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        sys.exit(f"{error}" if sys.argv[1:] else "give a file of images: python run.py images.npy")
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    for best, share in zip(logits.argmax(axis=1), odds.max(axis=1) / odds.sum(axis=1), strict=True):
        print(f"{BUNDLE['classes'][best]}\t{share:.4f}")
