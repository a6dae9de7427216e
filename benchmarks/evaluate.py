"""How much of its time `evaluate` spends in the model.

Compares images per second of `measure.accuracy.predict` (reading, normalising, checking, collecting) with the
bare model on tensors in memory, on the same threads, in alternating rounds of one run:

    python benchmarks/evaluate.py [recipe] [images]
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from vitquant import cpu, recipes
from vitquant.analysis import statistics
from vitquant.data.prepared import Prepared
from vitquant.measure import accuracy
from vitquant.parallel import map_batches
from vitquant.params import Evaluate
from vitquant.predictor import CPU

ROUNDS = 7
ONE_BY_ONE = Evaluate(batch_size=1, cuda_batch_size=1, large_batch=5, workers=0)


class FirstImages(Prepared):
    """The prepared data, cut to the first `count` validation images."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self.count = count

    def images(self, split):
        return super().images(split)[: self.count]


def main(recipe: str = "dynamic-int8", count: str = "128") -> None:
    predictor = recipes.load(Path("models/recipes") / recipe)
    prepared = FirstImages(Path("data/processed"), int(count))
    threads = cpu.cores()
    tensors = [predictor.preprocess(image[None]) for image in prepared.images("val")]
    index = np.arange(len(tensors))[:, None]

    def bare(batch):
        return predictor.forward(tensors[batch.item()])

    def seconds(function) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    times = np.array(
        [
            (
                seconds(lambda: map_batches(bare, index, ONE_BY_ONE, CPU, threads, "bare model")),
                seconds(lambda: accuracy.predict(predictor, prepared, ONE_BY_ONE, threads)),
            )
            for _ in range(ROUNDS + 1)
        ][1:]  # the first round warms up
    )
    share = statistics.paired_ratio([times[:, 0]], [times[:, 1]])
    rates = len(tensors) / np.median(times, axis=0)
    print(f"{recipe}, {threads} threads, {len(tensors)} images, {ROUNDS} rounds, torch {torch.__version__}")
    print(f"bare model {rates[0]:.2f} images/s, evaluate {rates[1]:.2f} images/s")
    print(f"share of the time in the model: {share.value:.3f} [{share.low:.3f}, {share.high:.3f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
