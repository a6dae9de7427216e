"""What every recipe keeps, whatever its method (docs/adding-a-recipe.md, section 1): each example of examples.py."""

import functools
import pkgutil
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity

from vitquant import artifact, files, recipes
from vitquant.data.prepared import Prepared
from vitquant.errors import VitquantError
from vitquant.parallel import choose_device
from vitquant.pool import one_core_each
from vitquant.predictor import CPU, Predictor, read_weights, write_weights

from .examples import EXAMPLES, FIRST, Built, Run
from .vision_transformer import BLOCKS

BATCH = 4
NORMS = BLOCKS * 2 + 1
CLASSES = 6
COSINES = {32: 0.9999, 16: 0.999, 8: 0.99, 4: 0.98}  # of the class token to FP32's, at least, by bits of the weights
FORMATS = (  # data, all of them: nothing in it runs
    *({"model.safetensors"}, {"model.safetensors", "network.json"}, {"model.onnx"}, {"model.bin", "model.xml"}),
)

Images = NDArray[np.uint8]
every_example = pytest.mark.parametrize("name", EXAMPLES)


def test_every_method_has_an_example() -> None:
    methods = {module.name for module in pkgutil.iter_modules(recipes.__path__)}
    missing = sorted(methods - {example.recipe.method for example in EXAMPLES.values()})
    assert not missing, f"add to EXAMPLES in tests/recipes/examples.py a recipe of {', '.join(missing)}: see Example"


@functools.cache
def loaded(path: Path, device: torch.device) -> Predictor:
    """Kept for as long as the process lives."""
    return recipes.load(path, device)


def predict(
    path: Path, batches: Sequence[Images], threads: int = 1, device: torch.device | None = None
) -> NDArray[np.float32]:
    """Logits and class tokens, (N, C + D), by several Python threads, each on one core; on the GPU if there is one."""
    predictor = loaded(path, device or choose_device("auto"))
    with one_core_each(threads) as pool:
        return np.concatenate(list(pool.map(predictor.outputs, batches)))


def logits_alone(path: Path, batches: Sequence[Images]) -> NDArray[np.float32]:
    """What calling the predictor gives, one batch after the other, on one core; on the GPU if there is one."""
    with one_core_each(1) as pool:
        return np.concatenate(list(pool.map(loaded(path, choose_device("auto")), batches)))


@pytest.fixture(scope="module")
def batches(prepared: Prepared) -> list[Images]:
    """The validation images."""
    images = np.array(prepared.images("val"))
    return list(images.reshape(-1, BATCH, *images.shape[1:]))


def difference(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@every_example
def test_it_is_close_to_fp32(name: str, built: Built, run: Run, fp32: Path, batches: list[Images]) -> None:
    both = predict(fp32, batches, device=CPU), run(name, predict, built(name), batches)
    expected, logits = (outputs[:, :CLASSES] for outputs in both)
    assert difference(logits, expected) <= EXAMPLES[name].tolerance
    assert np.mean(logits.argmax(axis=1) == expected.argmax(axis=1)) > 0.9
    if artifact.open_artifact(built(name)).spec.traits.quantized:
        assert difference(logits, expected) > 0


@every_example
def test_its_class_token_is_close_to_fp32_s_and_lies_beside_the_logits(
    name: str, built: Built, run: Run, fp32: Path, batches: list[Images]
) -> None:
    expected, outputs = predict(fp32, batches, device=CPU), run(name, predict, built(name), batches)
    assert (outputs.shape, outputs.dtype) == (expected.shape, np.float32)
    assert np.array_equal(outputs[:, :CLASSES], run(name, logits_alone, built(name), batches))
    token, expected = outputs[:, CLASSES:], expected[:, CLASSES:]
    cosines = (token * expected).sum(axis=1) / np.linalg.norm(token, axis=1) / np.linalg.norm(expected, axis=1)
    traits = artifact.open_artifact(built(name)).spec.traits
    assert cosines.min() > COSINES[traits.weight_bits]
    if traits.quantized:
        assert difference(token, expected) > 0
    elif traits.weight_bits == 32:
        assert difference(token, expected) <= EXAMPLES[name].tolerance


@every_example
def test_moved_and_loaded_again_it_gives_the_same_bits(
    name: str, built: Built, run: Run, batches: list[Images], tmp_path: Path
) -> None:
    moved = shutil.copytree(built(name), tmp_path / "copy").rename(tmp_path / "moved")
    assert np.array_equal(run(name, predict, moved, batches), run(name, predict, built(name), batches))


@pytest.mark.parametrize("name", [name for name in FIRST if not name.startswith("openvino")])
def test_two_builds_give_the_same_bits(
    name: str, built: Built, run: Run, fp32: Path, calibration: Images, batches: list[Images], tmp_path: Path
) -> None:
    run(name, recipes.build, name, EXAMPLES[name].recipe, fp32, tmp_path / "again", calibration)
    digests = [artifact.open_artifact(path).spec.files for path in (built(name), tmp_path / "again")]
    assert digests[0] == digests[1] != {}
    assert np.array_equal(run(name, predict, tmp_path / "again", batches), run(name, predict, built(name), batches))


@every_example
def test_several_threads_give_what_one_gives(name: str, built: Built, run: Run, batches: list[Images]) -> None:
    alone, together = (run(name, predict, built(name), 4 * batches, threads, CPU) for threads in (1, 4))
    assert np.array_equal(together, alone)


def split(path: Path, images: Images, threads: int) -> tuple[NDArray[np.float32], int]:
    """Outputs of a batch that is split over so many cores, and the number of threads after that."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return recipes.load(path, split=True).outputs(images), torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def parts_alone(path: Path, images: Images, threads: int) -> NDArray[np.float32]:
    """Likewise, each core's images after the others', by a predictor that knows of one core."""
    with one_core_each(1) as pool:
        predictor = pool.submit(recipes.load, path).result()
        return np.concatenate(list(pool.map(predictor.outputs, np.array_split(images, threads))))


several_batches = pytest.mark.parametrize(
    "name", [name for name, example in EXAMPLES.items() if example.other_batch is not None]
)


@several_batches
def test_a_batch_split_over_the_cores_gives_what_each_part_alone_gives(
    name: str, built: Built, run: Run, prepared: Prepared
) -> None:
    images, threads = np.array(prepared.images("val")[:4]), 3  # parts of two images, one and one
    torch.compiler.reset()  # it compiles a function for few sizes of a batch, and then no more
    together, after = run(name, split, built(name), images, threads)
    assert np.array_equal(together, run(name, parts_alone, built(name), images, threads))
    assert after == threads


@several_batches
def test_another_batch_gives_the_same(name: str, built: Built, run: Run, batches: list[Images]) -> None:
    torch.compiler.reset()
    singly = run(name, predict, built(name), [image[None] for image in batches[0]])
    together = run(name, predict, built(name), batches[:1])
    for part in (slice(CLASSES), slice(CLASSES, None)):  # logits, class token
        assert difference(singly[:, part], together[:, part]) <= EXAMPLES[name].other_batch


@every_example
def test_the_images_of_a_batch_affect_each_other_only_where_its_traits_say_so(
    name: str, built: Built, run: Run, batches: list[Images]
) -> None:
    """Other images beside it, in a batch of the same size, change an image's outputs, or not a bit of them."""
    others = [np.concatenate([batch[:1], other[1:]]) for batch, other in pairwise(batches)]
    own, beside_others = (run(name, predict, built(name), each)[::BATCH] for each in (batches[:-1], others))
    affected = not np.array_equal(own, beside_others)
    assert affected == artifact.open_artifact(built(name)).spec.traits.batch_scales


@pytest.mark.parametrize("name", FIRST)
def test_a_build_that_fails_leaves_nothing(
    name: str, run: Run, fp32: Path, calibration: Images, tmp_path: Path
) -> None:
    def fill(directory: Path) -> dict[str, Any]:
        (directory / "model.safetensors").write_bytes(b"no weights")
        return {}

    artifact.write(tmp_path / "fp32", artifact.open_artifact(fp32).spec, fill)
    with pytest.raises(VitquantError, match="is no safetensors file"):
        run(name, recipes.build, name, EXAMPLES[name].recipe, tmp_path / "fp32", tmp_path / "r", calibration)
    assert [path.name for path in tmp_path.iterdir()] == ["fp32"]


@every_example
def test_the_artifact_is_data_and_recipe_json_has_the_digest_of_each_file(name: str, built: Built) -> None:
    found = {file.relative_to(built(name)).as_posix() for file in built(name).rglob("*")}
    digests = set(artifact.open_artifact(built(name)).spec.files)
    assert found == {"recipe.json", *digests}
    assert digests in FORMATS


def stored(path: Path) -> list[tuple[tuple[int, ...], int]]:
    """Shape and bytes of every tensor in an artifact's files."""
    if (path / "model.onnx").exists():
        tensors = [onnx.numpy_helper.to_array(item) for item in onnx.load(path / "model.onnx").graph.initializer]
        return [(tensor.shape, tensor.nbytes) for tensor in tensors]
    if (path / "model.xml").exists():
        layers = ET.parse(path / "model.xml").getroot().iterfind(".//layer[@type='Const']/data")
        return [(tuple(map(int, filter(None, data.get("shape").split(",")))), int(data.get("size"))) for data in layers]
    return [(tuple(tensor.shape), tensor.nbytes) for tensor in read_weights(path).values()]


def linear_layers(path: Path) -> list[int]:
    """Bytes of the weights of the backbone's linear layers: all that is a matrix, but the head."""
    matrices = [(shape, size) for shape, size in stored(path) if len(shape) == 2 and min(shape) > 1]
    return [size for shape, size in matrices if sorted(shape) != [6, 128]]


@every_example
def test_its_weights_have_as_many_bits_as_its_traits_say(name: str, built: Built, fp32: Path) -> None:
    floats, own = linear_layers(fp32), linear_layers(built(name))
    assert len(own) == len(floats) == BLOCKS * 4  # qkv, proj, fc1 and fc2
    assert 32 * sum(own) / sum(floats) == artifact.open_artifact(built(name)).spec.traits.weight_bits


def device_taken(path: Path, device: torch.device) -> str:
    return recipes.load(path, device).device.type


@every_example
def test_it_runs_on_the_devices_that_its_traits_say(name: str, built: Built, run: Run) -> None:
    devices = artifact.open_artifact(built(name)).spec.traits.devices
    assert "cpu" in devices
    if "cuda" not in devices or torch.cuda.is_available():
        assert run(name, device_taken, built(name), torch.device("cuda")) == devices[-1]


def norms(path: Path, batch: Images) -> int:
    """How many LayerNorms PyTorch calls as operators in one pass."""
    predictor = loaded(path, CPU)

    def count() -> int:
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
            predictor(batch)
        return sum(event.count for event in profiler.key_averages() if event.key == "aten::layer_norm")

    with one_core_each(1) as pool:
        pool.submit(predictor, batch).result()
        return pool.submit(count).result()


@every_example
def test_it_is_eager_or_compiled_as_its_traits_say(name: str, built: Built, run: Run, batches: list[Images]) -> None:
    called = run(name, norms, built(name), batches[0])
    if artifact.open_artifact(built(name)).spec.traits.execution == "eager":
        assert called == NORMS
    else:
        assert called <= 1  # the last, between the compiled blocks and the head


@pytest.mark.parametrize("name", [name for name in EXAMPLES if not name.startswith(("onnxruntime", "openvino"))])
def test_tensors_that_do_not_fit_are_refused(name: str, run: Run, built: Built, tmp_path: Path) -> None:
    """Before their addresses are handed to a kernel, which would read beyond them."""
    tensors = read_weights(built(name))
    bias = next(key for key in tensors if key.endswith("mlp.fc1.bias"))
    norm = next(key for key in tensors if key.endswith("norm2.weight"))
    for problem, changed in {
        f"{bias} is": tensors | {bias: tensors[bias][:-8].clone()},
        f"{norm} is": tensors | {norm: tensors[norm].double()},
        f"{norm} is missing": {key: tensor for key, tensor in tensors.items() if key != norm},
        "more is unknown": tensors | {"more": torch.zeros(1)},
    }.items():
        bad = with_tensors(built(name), changed, tmp_path)
        with pytest.raises(VitquantError, match=f"does not fit vit_of_two_blocks: {problem}"):
            run(name, recipes.load, bad)


@every_example
def test_options_that_the_method_does_not_take_are_refused(name: str, run: Run, built: Built, tmp_path: Path) -> None:
    shutil.copytree(built(name), tmp_path / "copy")
    spec = files.read_json(tmp_path / "copy/recipe.json")
    files.write_json(tmp_path / "copy/recipe.json", spec | {"options": {"colour": "red"}})
    with pytest.raises(VitquantError, match="recipe.json: options: .*colour: unknown key"):
        run(name, recipes.load, tmp_path / "copy")


def with_tensors(path: Path, tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    """A copy of the artifact with other tensors, and their digest."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    spec = artifact.open_artifact(path).spec

    def fill(directory: Path) -> dict[str, Any]:
        for name in spec.files.keys() - {artifact.WEIGHTS_FILE}:
            shutil.copy(path / name, directory)
        write_weights(directory, tensors)
        return {}

    artifact.write(copy, spec, fill)
    return copy
