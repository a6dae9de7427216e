"""Small real inputs: generated photographs, a tiny ViT with random weights, and its FP32 artifact."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from vitquant import artifact
from vitquant.data import folder
from vitquant.data.prepare import prepare
from vitquant.data.prepared import Prepared
from vitquant.images import Preprocessing
from vitquant.models import baseline
from vitquant.params import Params, Recipe

CLASSES = ("disc", "noise", "square", "stripes", "waves", "yellow")
SIDE = 64  # pixels; test_vit has patches of 16
LONGEST = (  # files whose tests take longest; the study that the second of e2e copies has run by then
    *("e2e/test_pipeline.py", "recipes/test_contract.py", "measure/test_benchmark.py", "e2e/test_stale.py"),
    *("engines/test_inductor.py", "measure/test_cuda_benchmark.py", "measure/test_tails.py", "measure/test_draws.py"),
)
PREPROCESSING = Preprocessing(resize=72, crop=SIDE, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: one left over would keep a single process busy when the others are done."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def draw_image(label: str, seed: int) -> Image.Image:
    """A 96 × 80 picture that belongs to `label`, each seed another one."""
    rng = np.random.default_rng([CLASSES.index(label), seed])
    y, x = np.mgrid[:80, :96]
    cx, cy, radius = rng.integers(30, 60), rng.integers(25, 55), rng.integers(10, 25)
    gray = {
        "disc": ((x - cx) ** 2 + (y - cy) ** 2 < radius**2) * 255.0,
        "noise": rng.uniform(0, 255, x.shape),
        "square": ((abs(x - cx) < radius) & (abs(y - cy) < radius)) * 255.0,
        "stripes": (x // 6 % 2) * 255.0,
        "waves": 127 + 127 * np.sin(y / 4 + cx),
        "yellow": np.full(x.shape, 200.0),
    }[label]
    image = np.stack([gray, gray, gray * (label != "yellow")], axis=-1) + rng.normal(0, 20, (80, 96, 3))
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def write_images(root: Path, per_class: int) -> Path:
    """A folder per class, `per_class` generated images in each."""
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for seed in range(per_class):
            draw_image(label, seed).save(root / label / f"{seed:03}.png")
    return root


def mini_study(images: Path) -> dict:
    """params.yaml of the miniature study, as plain data, to be changed by a test."""
    recipe = {"method": "dynamic_int8", "per_channel": False, "keep_float": ["head"], "engine": "auto"}
    return {
        "study": "mini",
        "threads": "auto",
        "device": "cpu",
        "max_slowdown": 1e9,
        "model": {"source": "random", "name": "test_vit", "seed": 0},
        "data": {
            "source": "folder",
            "path": str(images),
            "resize": 72,
            "crop": SIDE,
            "interpolation": "bicubic",
            "val_fraction": 0.4,
            "seed": 0,
            "on_undecodable": "stop",
            "max_megapixels": 80,
        },
        "head": "probe",
        "probe": {"holdout_fraction": 0.25, "c": [0.01, 0.1], "seed": 0},
        "embedding": {"pooling": "class", "neighbours": 5, "temperature": 0.07},
        "calibration": {"images": 12, "seed": 0},
        "recipes": {"fp32": {"method": "fp32"}, "dynamic-int8": recipe},
        "evaluate": {"batch_size": 1, "cuda_batch_size": 8, "large_batch": 5, "workers": 0},
        "benchmark": {
            "launches": 2,
            "max_busy_pct": 100,
            "max_repeats": 0,
            "warmup": 1,
            "batches": [{"size": 1, "rounds": 3}, {"size": 4, "rounds": 2}],
            "seed": 0,
            "energy_seconds": 0.1,
            "tail_passes": 100,
        },
        "cuda": {
            "recipes": {"fp32": {"method": "floating_point", "dtype": "float32", "compile": False}},
            "launches": 1,
            "max_busy_pct": 100,
            "max_repeats": 0,
            "warmup": 1,
            "batches": [{"size": 1, "rounds": 3, "seconds": 0.01}, {"size": 4, "rounds": 3}],
            "seed": 0,
            "energy_seconds": 0.1,
            "profile": ["fp32"],
            "speed_only": [],
        },
    }


def write_study_of_fp32(folder: Path, fp32: Path, rounds: int = 2) -> None:
    """`params.yaml` of the miniature study with its baseline alone, and `artifacts` with that, in `folder`."""
    study = mini_study(folder)
    study["recipes"] = {"fp32": {"method": "fp32"}}
    study["benchmark"]["batches"] = [{"size": 1, "rounds": rounds}]
    (folder / "params.yaml").write_text(yaml.safe_dump(study))
    (folder / "artifacts").mkdir()
    (folder / "artifacts/fp32").symlink_to(fp32)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, which the workers of pytest-xdist share."""
    root = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        path = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"
        path.mkdir(mode=0o700, exist_ok=True)
        patch.setenv("VITQUANT_CACHE", str(path))
        yield path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in each class."""
    return write_images(tmp_path_factory.mktemp("images"), 10)


@pytest.fixture(scope="session")
def params(images: Path) -> Params:
    """The miniature study."""
    return Params.model_validate(mini_study(images))


@pytest.fixture(scope="session")
def prepared(images: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The images, decoded and split."""
    path = tmp_path_factory.mktemp("data") / "processed"
    prepare(folder.samples(params.data, images), PREPROCESSING, params.data, path)
    return Prepared(path)


@pytest.fixture(scope="session")
def calibration(params: Params, prepared: Prepared) -> NDArray[np.uint8]:
    """A few images of the train split."""
    return prepared.calibration(params.calibration)


@pytest.fixture(scope="session")
def fp32(params: Params, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP32 artifact: a tiny random ViT and a probe fitted on the train split."""
    path = tmp_path_factory.mktemp("models") / "baseline"
    baseline.build(params, Path("unused"), prepared, path, threads=2)
    return path


def without(package: str, recipe: Recipe, fp32: Path, destination: Path) -> str | None:
    """Build an artifact in a process that has no `package`; why the artifact is unavailable."""
    program = f"""
import sys
sys.modules[{package!r}] = None  # what Python then says is what it says of a package that is not there
from pathlib import Path
import numpy as np
from vitquant import artifact, recipes
from vitquant.params import Recipe
recipe = Recipe.model_validate({recipe.model_dump()})
recipes.build("r", recipe, Path({str(fp32)!r}), Path({str(destination)!r}), np.zeros((1, 64, 64, 3), np.uint8))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    return artifact.open_artifact(destination).spec.unavailable


def without_home(program: str, cache: Path | str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user without an account, and without HOME; `cache` may be empty, for none."""
    if os.getuid():
        pytest.skip("only root can take the accounts away")
    mounts = " && ".join(f"mount --bind /dev/null /etc/{name}" for name in ("passwd", "nsswitch.conf"))
    hide = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    command = [sys.executable, "-c", program]
    result = subprocess.run(
        [*hide, *command], env=environment | {"VITQUANT_CACHE": str(cache)}, capture_output=True, text=True, check=False
    )
    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip(f"the accounts cannot be taken away here: {result.stderr.strip()}")
    return result
