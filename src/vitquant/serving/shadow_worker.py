"""The process that holds the FP32 artifact which sampled images are compared with; all others go before it."""

import contextlib
import os
import socket
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from vitquant import files
from vitquant.artifact import SPEC_FILE, open_artifact
from vitquant.errors import VitquantError
from vitquant.monitoring.ranges import Counter
from vitquant.serving import frames, worker

LOWEST = 19


def main(descriptor: str, path: str, sha256: str) -> None:
    """Load it on one core, say so, and answer until the server hangs up.

    A request is an image's pixels, and as safetensors the ranges of the artifact that answered it; the answer is
    float32: logits and embedding, and the share of values outside of those ranges, NaN where there are none.
    """
    connection = socket.socket(fileno=int(descriptor))
    os.nice(LOWEST)
    with contextlib.suppress(OSError):  # where sessions share the cores out among them, that counts within one only
        Path("/proc/self/autogroup").write_text(str(LOWEST))
    import torch

    from vitquant.models.loading import load_model
    from vitquant.predictor import Predictor

    torch.set_num_threads(1)
    try:
        if files.sha256(Path(path) / SPEC_FILE) != sha256:
            raise VitquantError(f"{path} is another artifact than when the server started")
        opened = open_artifact(Path(path))
        model, side = load_model(opened), opened.spec.preprocessing.crop
        counter, predictor = Counter(model), Predictor(opened, model)
        width = predictor.outputs(np.zeros((1, side, side, 3), np.uint8)).shape[1]
    except (VitquantError, RuntimeError, MemoryError, OSError) as error:
        frames.answer(connection, worker.HEAD.pack(worker.FAILED, 0), str(error).encode("utf-8", "backslashreplace"))
        return
    frames.answer(connection, worker.HEAD.pack(worker.READY, width))
    for request in frames.requests(connection):
        pixels = np.frombuffer(request, np.uint8, 3 * side**2).reshape(1, side, side, 3)
        counter.begin(load(bytes(request[pixels.size :])))
        outputs = predictor.outputs(pixels)
        frames.answer(connection, np.append(outputs, counter.share).astype(np.float32).tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
