"""How near `prepare` comes to a bare parallel decode-and-resize loop over the same files.

Alternates both in one run over the fetched images of the study in params.yaml, taken again from the first where
they are fewer than asked for, and reports the ratio with its interval, and the peak memory:

    python benchmarks/prepare.py [images] [params.yaml] [data/raw]
"""

import io
import itertools
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from vitquant import params
from vitquant.analysis import statistics
from vitquant.data.prepare import prepare
from vitquant.data.sources import SOURCES
from vitquant.models.vit import preprocessing

ROUNDS = 5


def main(count: str = "5000", study_file: str = "params.yaml", raw: str = "data/raw") -> None:
    study = params.load(Path(study_file))
    samples = SOURCES[study.data.source].samples(study.data, Path(raw))
    samples = list(itertools.islice(itertools.cycle(samples), int(count)))
    shape = preprocessing(study.model.name, study.data)

    def decode(sample) -> None:
        with Image.open(io.BytesIO(sample.read())) as image:
            image.convert("RGB").resize((shape.resize, shape.resize), Image.Resampling[shape.interpolation.upper()])

    def bare() -> None:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(decode, samples))

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            prepare(samples, shape, study.data, Path(folder) / "processed")

    def seconds(function) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    times = np.array([(seconds(bare), seconds(ours)) for _ in range(ROUNDS)])
    share = statistics.paired_ratio([times[:, 0]], [times[:, 1]])
    rates = len(samples) / np.median(times, axis=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{len(samples)} images: bare loop {rates[0]:.0f} images/s, prepare {rates[1]:.0f} images/s")
    print(f"prepare's rate over the bare loop's: {share.value:.3f} [{share.low:.3f}, {share.high:.3f}]")
    print(f"peak memory: {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
