"""Whether memory stays flat while a model runs over many images.

Runs `baseline.features` or `measure.accuracy.predict` of a ViT with random weights over synthetic images on disk, in
this process, and prints how its anonymous memory grows from image 1,000 on, beside the array of results, which grows
as it is filled. Exits with 1 where it grows by 50 MB or more:

    python benchmarks/memory.py features [--images 20000]
    python benchmarks/memory.py evaluate [--images 20000]
"""

import itertools
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from vitquant import files, params
from vitquant.artifact import open_artifact
from vitquant.cpu import cores
from vitquant.data.prepared import Prepared
from vitquant.images import Preprocessing
from vitquant.measure import accuracy
from vitquant.models import baseline
from vitquant.models.loading import load_model
from vitquant.models.vit import preprocessing
from vitquant.params import RandomModel
from vitquant.predictor import CPU, Predictor

MODEL = RandomModel(source="random", name="vit_small_patch14_dinov2", seed=0)
SIDE = 112  # pixels: a quarter of the time that 224 takes
CLASSES = [f"class {index}" for index in range(8)]
EVERY = 1000  # images
LIMIT_MB = 50


@click.command()
@click.argument("stage", type=click.Choice(["features", "evaluate"]))
@click.option("--images", "count", type=click.IntRange(min=2 * EVERY), default=20_000, show_default=True)
def main(stage: str, count: int) -> None:
    study = params.load(Path("params.yaml")).model_copy(update={"model": MODEL, "head": "none", "device": "cpu"})
    threads = cores()
    with tempfile.TemporaryDirectory() as folder:
        shape = preprocessing(MODEL.name, study.data.model_copy(update={"resize": SIDE, "crop": SIDE}))
        prepared = synthetic(Path(folder) / "processed", count, shape)
        baseline.build(study, Path("no weights"), prepared, Path(folder) / "fp32", threads)
        artifact = open_artifact(Path(folder) / "fp32")
        model = load_model(artifact)
        head = model.head
        memory = Watch(bytes_per_image=4 * (head.in_features if stage == "features" else head.out_features))
        model.backbone.patch_embed.register_forward_pre_hook(memory.next_image)
        print(f"{stage}, {MODEL.name}, {count} images, {threads} threads, torch {torch.__version__}")
        if stage == "features":
            baseline.features(model, shape, prepared.images("val"), study.evaluate, CPU, threads)
        else:
            accuracy.predict(Predictor(artifact, model), prepared, study.evaluate, threads)
    print(f"grown by {memory.growth:.1f} MB from image {EVERY} to the last; the limit is {LIMIT_MB} MB")
    sys.exit(memory.growth >= LIMIT_MB)


def synthetic(path: Path, count: int, shape: Preprocessing) -> Prepared:
    """A prepared directory of `count` validation images of noise, each of them the one before, shifted."""
    path.mkdir()
    files.write_json(path / "classes.json", CLASSES)
    files.write_json(path / "preprocessing.json", shape.model_dump())
    noise = np.random.default_rng(0).integers(0, 256, SIDE * SIDE * 3, np.uint8)
    with (path / "val_images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, SIDE, SIDE, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for index in range(count):
            file.write(np.roll(noise, index))
    return Prepared(path)


class Watch:
    """Reads this process's anonymous memory whenever the model begins an image whose number divides by EVERY."""

    growth: float
    """Megabytes since image EVERY, less those that the array of results has grown by."""

    def __init__(self, bytes_per_image: int) -> None:
        self._count = itertools.count(1)  # each of the pool's threads draws from it
        self._bytes_per_image = bytes_per_image
        self._first = 0.0

    def next_image(self, *_: object) -> None:
        image = next(self._count)
        if image % EVERY:
            return
        anonymous = anonymous_mb()
        self._first = self._first or anonymous
        self.growth = anonymous - self._first - (image - EVERY) * self._bytes_per_image / 1e6
        tqdm.write(f"image {image}: {anonymous:.1f} MB, grown by {self.growth:+.1f} MB beside the results")


def anonymous_mb() -> float:
    """RssAnon: resident memory that no file backs, so not the mapped images."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) * 1024 / 1e6


if __name__ == "__main__":
    main()
