"""What glibc's allocator costs as it comes, against the setting that the benchmark gives every process.

A pass frees large blocks; by default glibc gives them back to the kernel, which maps and zeroes them anew in the next
pass. Two processes per recipe, one of each kind, are visited in turn, in the order of the letters and back. Needs the
artifacts and the prepared data of `make repro`:

    python benchmarks/allocator.py fp32 dynamic-int8 vitquant-int8
"""

import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from vitquant import recipes
from vitquant.artifact import open_artifact
from vitquant.cpu import threads
from vitquant.data.prepared import Prepared
from vitquant.measure import allocator
from vitquant.measure.worker import Worker

SIZES, ROUNDS = (1, 32), 6


def main(names: list[str]) -> None:
    rows = []
    for name in names:
        path = Path("models/recipes") / name
        workers = {keep: Worker(serve, path, threads("auto"), keep) for keep in (False, True)}
        for worker in workers.values():
            worker.receive()
        found: dict[tuple[int, bool], list[tuple[float, int]]] = {
            (size, keep): [] for size in SIZES for keep in workers
        }
        for number in range(ROUNDS):
            for size in SIZES:
                for keep in (False, True) if number % 2 else (True, False):
                    found[size, keep].append(workers[keep].ask(size))
        for worker in workers.values():
            worker.close()
        for size in SIZES:
            times = {keep: np.array(found[size, keep]) for keep in workers}
            ratios = times[False][:, 0] / times[True][:, 0]
            medians = [value for keep in workers for value in np.median(times[keep], axis=0)]
            rows.append([name, size, *medians, np.median(ratios), ratios.min(), ratios.max()])
    header = ["recipe", "batch", "default ms", "faults", "kept ms", "faults", "default / kept", "least", "greatest"]
    form = ("", "", ".1f", ",.0f", ".1f", ",.0f", ".2f", ".2f", ".2f")
    print(tabulate(rows, header, tablefmt="github", floatfmt=form))


def serve(connection: Connection, path: Path, cores: int, keep: bool) -> None:
    """Answer a batch size with the milliseconds and page faults of a pass, after an untimed image."""
    torch.set_num_threads(cores)
    if keep:
        allocator.keep_freed()
    recipes.preload(open_artifact(path).spec.method)
    predictor, images = recipes.load(path), Prepared(Path("data/processed")).images("val")
    inputs = {size: predictor.preprocess(np.array(images[:size])) for size in SIZES}
    for batch in inputs.values():
        predictor.forward(batch)
    connection.send("ready")
    while True:
        (size,) = connection.recv()
        predictor.forward(inputs[1])
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        predictor.forward(inputs[size])
        seconds = time.perf_counter() - start
        connection.send((1000 * seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))


if __name__ == "__main__":
    main(sys.argv[1:] or ["fp32", "dynamic-int8", "vitquant-int8"])
