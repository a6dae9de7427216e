"""The process that holds an artifact: pixels in, logits out."""

import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np

from vitquant import files
from vitquant.artifact import SPEC_FILE
from vitquant.errors import VitquantError
from vitquant.serving import frames
from vitquant.serving.model import load

READY, FAILED = 0, 1
HEAD = struct.Struct("<BI")
"""READY, or FAILED and why, as text; before logits, READY and the number of images."""
PASSES = 2  # of each batch size before the server is ready: the second is timed


def main(descriptor: str, path: str, sha256: str, threads: str, device: str, sizes: str) -> None:
    """Load and warm up every batch size, tell the seconds that each takes, then answer until the server hangs up."""
    connection = socket.socket(fileno=int(descriptor))
    try:
        spec = Path(path) / SPEC_FILE
        if spec.is_file() and files.sha256(spec) != sha256:  # which has the digests of all other files
            raise VitquantError(f"{path} is another artifact than when the server started")
        model = load(Path(path), int(threads), device)  # type: ignore[arg-type]
        side = model.artifact.spec.preprocessing.crop
        seconds = []
        for size in map(int, sizes.split(",")):
            images = np.zeros((size, side, side, 3), np.uint8)
            for _ in range(PASSES):
                start = time.perf_counter()
                model.logits(images)
            seconds.append(time.perf_counter() - start)
    except (VitquantError, RuntimeError, MemoryError, OSError, ValueError) as error:
        frames.answer(connection, HEAD.pack(FAILED, 0), str(error).encode("utf-8", "backslashreplace"))
        return
    frames.answer(connection, HEAD.pack(READY, len(seconds)), np.array(seconds, np.float64).tobytes())
    for request in frames.requests(connection):
        pixels = np.frombuffer(request, np.uint8).reshape(-1, side, side, 3)
        logits = np.ascontiguousarray(model.logits(pixels), np.float32)
        frames.answer(connection, HEAD.pack(READY, len(logits)), logits.tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
