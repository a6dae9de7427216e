"""A loaded artifact to serve with: vitquant.runtime where it runs the method, without PyTorch, else the Predictor."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitquant import cpu
from vitquant.artifact import Artifact, open_artifact
from vitquant.errors import UnsupportedError, VitquantError
from vitquant.runtime import classifier

Device = Literal["auto", "cpu", "cuda"]
GPU_BATCH = 32  # images that a thread gives a GPU at once


@dataclass(frozen=True)
class Model:
    """An artifact and what runs it."""

    artifact: Artifact
    logits: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Uint8 images (N, H, W, 3) to logits, float32 (N, C), which nobody has looked at: some may not be finite."""
    batch: int = 1
    """Images that are best given at once where throughput is all."""


def load(path: Path, threads: int, device: Device = "auto") -> Model:
    """Load an artifact to run on `threads` cores of the CPU, or on the GPU.

    Raises:
        VitquantError: it is damaged, or `device` is cuda and there is none, or its method has no kernels for it.
        UnsupportedError: it cannot run on this machine.
    """
    artifact = _opened(path, device)
    if artifact.spec.method == classifier.METHOD:
        return _without_torch(artifact, threads)
    import torch

    torch.set_num_threads(threads)
    return _with_torch(path, device)


def load_for_many(path: Path, device: Device = "auto") -> tuple[Model, ThreadPoolExecutor]:
    """Load an artifact, and threads to call it from, one a core of the CPU, each of which computes on one core.

    At small batches that is faster than one batch on all cores. On a GPU the threads decode.

    Raises:
        VitquantError, UnsupportedError: as `load`.
    """
    artifact, cores = _opened(path, device), cpu.cores()
    if artifact.spec.method == classifier.METHOD:
        return _without_torch(artifact, 1), ThreadPoolExecutor(cores)
    import torch

    from vitquant import pool

    torch.set_num_threads(cores)
    threads = pool.one_core_each(cores)
    return threads.submit(_with_torch, path, device).result(), threads


def open_classifier(path: Path) -> Artifact:
    """Open an artifact that has classes.

    Raises:
        VitquantError: it is damaged, or has none.
    """
    artifact = open_artifact(path)
    if not artifact.spec.classes:
        raise VitquantError(
            f"{path} gives embeddings, and has no classes to tell: vitquant.runtime runs it from Python"
        )
    return artifact


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The softmax of logits, float32 (N, C)."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
    return shares


def _opened(path: Path, device: Device) -> Artifact:
    artifact = open_classifier(path)
    if device == "cuda" and "cuda" not in artifact.spec.traits.devices:
        raise VitquantError(f"{path}: its method, {artifact.spec.method}, has no kernels for CUDA: use --device auto")
    if artifact.spec.method != classifier.METHOD and find_spec("torch") is None:
        raise UnsupportedError(f"{path}: its method, {artifact.spec.method}, needs PyTorch, which is not installed")
    return artifact


def _without_torch(artifact: Artifact, threads: int) -> Model:
    classifier.check(artifact)
    native = classifier.Classifier(artifact, classifier.read(artifact), threads)
    classes = len(native.classes)
    return Model(artifact, lambda images: native.forward(native.preprocess(images))[:, :classes])


def _with_torch(path: Path, device: Device) -> Model:
    import torch

    from vitquant import recipes
    from vitquant.parallel import choose_device

    predictor = recipes.load(path, choose_device(device))
    artifact = predictor.artifact
    classes = len(artifact.spec.classes)

    def logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            outputs: NDArray[np.float32] = predictor.forward(predictor.preprocess(images)).cpu().numpy()
        return outputs[:, :classes]

    alone = predictor.device.type == "cpu" or artifact.spec.traits.batch_scales
    return Model(artifact, logits, 1 if alone else GPU_BATCH)
